//! The dependency rule: the layers depend on `shared` and never on each other.

use std::path::Path;

const LAYERS: [&str; 3] = ["batch-layer", "speed-layer", "serving-layer"];

#[test]
fn layers_depend_on_shared_and_never_on_each_other() {
    for crate_folder in LAYERS.into_iter().chain(["shared"]) {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join(crate_folder).join("Cargo.toml");
        let manifest =
            std::fs::read_to_string(&manifest).unwrap_or_else(|error| panic!("{}: {error}", manifest.display()));
        let manifest: toml::Table = manifest.parse().unwrap_or_else(|error| panic!("{crate_folder}: {error}"));
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let dependencies = manifest.get(table).and_then(|table| table.as_table());
            for name in dependencies.into_iter().flat_map(toml::Table::keys) {
                let allowed = match name.strip_prefix("watershed") {
                    Some("-shared") => crate_folder != "shared",
                    Some(_) => false,
                    None => true,
                };
                assert!(allowed, "{crate_folder} must not depend on {name}; let them meet in a trait of shared");
            }
        }
    }
}
