//! Compiles the `.proto` files with a parser written in Rust, so that no `protoc` has to be installed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "apache/rocketmq/v2/definition.proto",
        "apache/rocketmq/v2/service.proto",
        "carillon/cluster/v1/producers.proto",
        "carillon/cluster/v1/registry.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed=proto/{file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .codec_path("crate::codec::Bounded")
        // A body stays a slice of the buffer it was received in: it is copied once, into the log.
        .bytes(".apache.rocketmq.v2.Message.body")
        .bytes(".carillon.cluster.v1.AskRequest.command")
        .compile_fds(descriptors)?;
    Ok(())
}
