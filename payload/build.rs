//! Compiles `proto/` with protox, so that no protoc is needed.

const SOURCES: [&str; 3] = ["proto/apex_manifest.proto", "proto/composite.proto", "proto/metadata.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    let descriptors = protox::compile(SOURCES, ["proto"])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
