//! Pages of metrics, as far as the command reads them.

/// The sum of a family's series; none when there is no such family.
pub fn sum(metrics: &str, family: &str) -> Option<f64> {
    let value = |line: &str| {
        let rest = line.strip_prefix(family)?;
        // Another family may begin with the same letters.
        (rest.starts_with('{') || rest.starts_with(' ')).then_some(())?;
        let values = rest.rsplit_once('}').map_or(rest, |(_, values)| values);
        values.split_ascii_whitespace().next()?.parse::<f64>().ok()
    };
    metrics.lines().filter_map(value).fold(None, |total, value| Some(total.unwrap_or(0.0) + value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_a_family_add_up_and_a_missing_family_is_unknown() {
        let text = "# HELP x y\nx_count{a=\"1 }\"} 2\nx_count{a=\"2\"} 3.5 1700000000\nx_count_other 9\nplain 7\n";
        assert_eq!(sum(text, "x_count"), Some(5.5));
        assert_eq!(sum(text, "plain"), Some(7.0));
        assert_eq!(sum(text, "missing"), None);
    }
}
