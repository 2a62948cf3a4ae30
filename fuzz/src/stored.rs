//! What is read back from a disk: damaged bytes are an error that says so, never a panic, never other data.

use std::sync::{Arc, LazyLock};

use object_store::ObjectStoreExt;
use object_store::path::Path;
use twox_hash::XxHash64;
use watershed_batch_layer::{Catalog, Error, History, Store, ViewStore, layout};
use watershed_shared::definition::{Statement, parse_definitions};
use watershed_shared::error::ErrorKind;
use watershed_shared::log::decode_block;
use watershed_shared::source::{PARTITIONS_MAX, SourceDefinition};

use crate::block_on;

/// The block and the schema message that shared's tests keep for ever.
const BLOCK: &[u8] = include_bytes!("../../shared/src/log/testdata/block_v1.bin");
const SCHEMA: &[u8] = include_bytes!("../../shared/src/log/testdata/schema_v1.bin");
/// Length of a block's checksum.
const CHECKSUM_BYTES: usize = 8;

/// Blocks of the log: as they are, where only whole ones are read, and with a right checksum, as another version of this
/// program might write them.
pub(crate) fn log_block(data: &[u8]) {
    if let Ok(events) = decode_block(data, SCHEMA) {
        assert!(events.num_rows() > 0);
        let mut damaged = data.to_vec();
        damaged[data.len() / 2] ^= 1;
        assert!(decode_block(&damaged, SCHEMA).is_err(), "damage is not noticed");
    }
    let mut block = data.to_vec();
    if let Some(fingerprint) = block.get_mut(24..32) {
        fingerprint.copy_from_slice(&XxHash64::oneshot(0, SCHEMA).to_le_bytes());
    }
    if let Some(content) = block.len().checked_sub(CHECKSUM_BYTES) {
        let checksum = XxHash64::oneshot(0, &block[..content]).to_le_bytes();
        block[content..].copy_from_slice(&checksum);
    }
    match decode_block(&block, SCHEMA) {
        // Every value can be shown: offsets and texts are what Arrow takes them for.
        Ok(events) => drop(arrow::util::pretty::pretty_format_batches(&[events]).unwrap()),
        // Invalid is what a later version's form is.
        Err(error) => assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Invalid), "{error}"),
    }
    assert!(decode_block(BLOCK, data).is_err() || data == SCHEMA, "another schema is taken for the block's");
}

static SOURCE: LazyLock<SourceDefinition> = LazyLock::new(|| {
    let sql = "CREATE SOURCE events (n BIGINT, name TEXT, t TIMESTAMP) WITH (partitions = 2)";
    match parse_definitions(sql).unwrap().pop() {
        Some(Statement::Source(source)) => source,
        other => panic!("no source: {other:?}"),
    }
});

/// JSON files of the store. The first byte says which one the other bytes are.
pub(crate) fn stored_json(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    block_on(async {
        match which % 4 {
            0 => check_catalog(bytes).await,
            1 => check_history("00000000000000000001.json", bytes).await,
            2 => check_history("_last_checkpoint", bytes).await,
            _ => check_view(bytes).await,
        }
    });
}

async fn put(store: &Store, path: Path, bytes: &[u8]) {
    store.objects().put(&path, bytes.to_vec().into()).await.unwrap();
}

async fn check_catalog(bytes: &[u8]) {
    let store = Store::in_memory().unwrap();
    put(&store, layout::catalog(), bytes).await;
    match Catalog::load(&store).await {
        // What was read can be written and read again.
        Ok(mut catalog) => {
            let definition = catalog.active("v").cloned();
            catalog.retain(|view| view == "v").await.unwrap();
            assert_eq!(Catalog::load(&store).await.unwrap().active("v").cloned(), definition);
        }
        Err(error) => assert!(matches!(error, Error::Corrupt { .. } | Error::NewerFormat { .. }), "{error}"),
    }
}

/// A history whose log has a file of these bytes.
async fn check_history(name: &str, bytes: &[u8]) {
    let store = Store::in_memory().unwrap();
    History::open(&store, &SOURCE).await.unwrap();
    put(&store, layout::history("events").unwrap().join("_delta_log").join(name), bytes).await;
    if let Ok(history) = History::open(&store, &SOURCE).await {
        let known = history.known();
        assert!(known.end().offsets().len() <= PARTITIONS_MAX as usize, "{}", known.end());
        let rows = known.rows(known.files().to_vec());
        assert_eq!(rows.files().len(), known.files().len());
        let _ = known.files_from(known.end());
    }
}

/// A view's table whose first batch version is these bytes.
async fn check_view(bytes: &[u8]) {
    let store = Store::in_memory().unwrap();
    let open = async || ViewStore::open(&store, "v", "d1", Arc::clone(&SOURCE.columns)).await;
    open().await.unwrap();
    let folder = layout::view_definition("v", "d1").unwrap();
    put(&store, folder.join("_delta_log").join("00000000000000000001.json"), bytes).await;
    if let Ok(view) = open().await
        && let Some(current) = view.current()
    {
        assert!(current.boundary.0.offsets().len() <= PARTITIONS_MAX as usize, "{}", current.boundary);
        let _ = current.states().count();
    }
}
