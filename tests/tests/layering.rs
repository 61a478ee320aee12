//! Who may import whom (architecture, section 2), checked over what Cargo resolved and over the sources.
//!
//! A crate that is not in [`ALLOWED`] fails: a new one decides its place first.

use std::collections::{BTreeSet, HashMap};

use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand, PackageId};
use tests::sources;

/// Crates of ours, without `carillon-`, and those of ours they may import; `*` is all.
const ALLOWED: [(&str, &[&str]); 11] = [
    ("base", &[]),
    ("storage", &["base"]),
    ("proto", &[]),
    ("serve", &["base"]),
    ("cluster", &["base", "proto"]),
    ("nameserver", &["base", "proto", "serve", "cluster"]),
    ("broker", &["base", "storage", "proto", "serve", "cluster"]),
    ("client", &["base", "proto"]),
    ("cli", &["*"]),
    ("tests", &["*"]),
    ("benches", &["*"]),
];
const PREFIX: &str = "carillon-";
/// What must not be below `storage`, however far: it is driven by plain threads and by simulations.
const RUNTIMES: [&str; 7] = ["tokio", "async-std", "smol", "hyper", "tonic", "prost", "axum"];
/// `base` is small, for ever.
const BASE_LINES_MAX: usize = 1_500;

fn metadata() -> Metadata {
    // Other platforms' dependencies are not on this machine, and would have to be downloaded.
    let options = ["--locked", "--filter-platform", "x86_64-unknown-linux-gnu"].map(String::from);
    MetadataCommand::new()
        .manifest_path(sources::root().join("Cargo.toml"))
        .features(CargoOpt::AllFeatures)
        .other_options(options)
        .exec()
        .expect("cargo describes the workspace it is testing")
}

#[test]
fn crates_import_only_what_lies_below_them() {
    let metadata = metadata();
    let allowed = HashMap::from(ALLOWED);
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        let name = package.name.strip_prefix(PREFIX).unwrap_or(&package.name);
        let Some(below) = allowed.get(name) else {
            wrong.push(format!("{name} has no place in the layers: add it to ALLOWED and to the architecture"));
            continue;
        };
        // Tests of a crate are held to the same edges, or a cycle would hide in them.
        for dependency in &package.dependencies {
            let Some(imported) = dependency.name.strip_prefix(PREFIX) else { continue };
            if !below.contains(&imported) && !below.contains(&"*") {
                wrong.push(format!("{name} imports {imported}, and may import {below:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn storage_has_no_async_runtime_and_no_grpc_below_it() {
    let metadata = metadata();
    let storage = metadata.packages.iter().find(|package| package.name.as_str() == "carillon-storage");
    let below = names_below(&metadata, &storage.expect("storage is in the workspace").id);
    let found: Vec<_> = RUNTIMES.iter().filter(|name| below.contains(**name)).collect();
    assert!(found.is_empty(), "storage depends on {found:?}");
    assert!(below.contains("crc32c"), "the walk sees what storage really depends on: {below:?}");
}

/// Everything that is linked with a package, itself included; what only its tests use is not.
fn names_below(metadata: &Metadata, from: &PackageId) -> BTreeSet<String> {
    let nodes = &metadata.resolve.as_ref().expect("cargo resolved the workspace").nodes;
    let nodes: HashMap<_, _> = nodes.iter().map(|node| (&node.id, node)).collect();
    let mut seen = BTreeSet::new();
    let mut next = vec![from];
    while let Some(id) = next.pop() {
        if !seen.insert(id) {
            continue;
        }
        let linked = nodes[id]
            .deps
            .iter()
            .filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development));
        next.extend(linked.map(|dependency| &dependency.pkg));
    }
    seen.into_iter().map(|id| metadata[id].name.to_string()).collect()
}

#[test]
fn types_of_the_protocol_are_named_only_in_the_grpc_gateway() {
    let mut named = Vec::new();
    for source in sources::all() {
        if source.path.starts_with("broker/src") && !source.path.starts_with("broker/src/grpc") {
            // The metrics crate has a module of that name too.
            let lines = source.lines_with("proto::");
            named.extend(lines.into_iter().filter(|line| !line.contains("prometheus::proto::")));
        }
    }
    assert!(named.is_empty(), "{}", named.join("\n"));
}

#[test]
fn base_stays_small() {
    let sources = sources::all();
    let base = sources.iter().filter(|source| source.path.starts_with("base/src"));
    let lines: usize = base.map(|source| source.text.lines().count()).sum();
    assert!(lines > 0 && lines <= BASE_LINES_MAX, "base has {lines} lines, the limit is {BASE_LINES_MAX}");
}
