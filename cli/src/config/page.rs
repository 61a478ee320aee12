//! The page about settings. Whatever it says of a setting comes from the code.

use serve::settings;

const HEAD: &str = "\
# Settings

`carillon config page` writes this page; a test holds it to what the code says.

A setting comes from its default, a file (`--config FILE`), the environment (`CARILLON__STORAGE__LOG__FLUSH=write`: two
underscores between levels) or a flag (`--set storage.log.flush=write`); the later ones of these win. Every server reads its
settings at its start, and none of them changes while it runs.

```sh
carillon config default > broker.toml               # every setting with its default; `--nameserver` for a name server
carillon config check broker.toml                   # line, column, key, value and limit of whatever is wrong
broker --config broker.toml --check                 # the same, with environment and flags
```

A key that does not exist, a value of the wrong kind and one outside its range keep a server from starting (exit code 2). All of
them are named at once, with their place, the limit, and the key that was probably meant. Nothing is adjusted.

| A value | is written as |
|---|---|
| duration | a whole number with `ms`, `s`, `m`, `h` or `d`: `\"30s\"` |
| size | bytes, or a whole number with `B`, `KiB`, `MiB`, `GiB` or `TiB`: `\"256MiB\"` |
| `host:port` | a name or an address; IPv6 in brackets: `\"[::1]:8081\"` |
| list | in TOML `[\"ns-1:9876\", \"ns-2:9876\"]`; in the environment and in flags also `ns-1:9876,ns-2:9876` |

What else is limited, and cannot be set: [limits](limits.md).
";

pub fn page() -> String {
    let broker = settings::page::<broker::config::Config>();
    let nameserver = settings::page::<nameserver::config::Config>();
    format!("{HEAD}\n## Broker\n\n{broker}\n## Name server\n\n{nameserver}")
}
