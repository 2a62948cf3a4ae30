//! An object store in the simulated world. What it holds outlives every process.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use watershed_shared::time::simulated::elapsed;

use super::world::{Failure, Side, World, lock};

/// Objects in memory behind the world's faults. Each call takes effect at one moment, as a whole or not at all, which is
/// what the stores promise that we support; listings may lag.
#[derive(Debug, Clone)]
pub(super) struct SimulatedStore {
    world: Arc<World>,
    objects: Arc<InMemory>,
    /// When each object was first put, as a number and in time: listings give objects in this order. Names would not do,
    /// as they hold random parts.
    listed: Arc<Mutex<HashMap<Path, (usize, Duration)>>>,
}

impl SimulatedStore {
    pub(super) fn new(world: &Arc<World>) -> SimulatedStore {
        SimulatedStore { world: Arc::clone(world), objects: Arc::default(), listed: Arc::default() }
    }

    async fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        location: &Path,
        effect: impl FnOnce(&SimulatedStore) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.clone();
        let result = self
            .world
            .call(Side::Store, what == "put", (what, without_random_parts(location)), move || effect(&store))
            .await;
        result.unwrap_or_else(|failure| Err(injected(failure)))
    }

    fn list_now(&self, prefix: Option<&Path>) -> Result<Vec<ObjectMeta>> {
        let mut found: Vec<ObjectMeta> = at_once(self.objects.list(prefix).try_collect())?;
        let listed = lock(&self.listed);
        let (lag, now) = (self.world.listing_lag(), elapsed());
        found.retain(|object| listed.get(&object.location).is_some_and(|(_, put)| *put + lag <= now));
        found.sort_by_key(|object| listed.get(&object.location).map(|(number, _)| *number));
        Ok(found)
    }
}

impl fmt::Display for SimulatedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimulatedStore")
    }
}

#[async_trait]
impl ObjectStore for SimulatedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let path = location.clone();
        let put = move |store: &SimulatedStore| {
            let result = at_once(store.objects.put_opts(&path, payload, options))?;
            let mut listed = lock(&store.listed);
            let number = listed.len();
            listed.entry(path).or_insert((number, elapsed()));
            Ok(result)
        };
        self.call("put", location, put).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        // Only files of more than 16 MiB are uploaded in parts.
        Err(Error::NotImplemented { operation: "uploads in parts".to_owned(), implementer: self.to_string() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let path = location.clone();
        self.call("get", location, move |store| at_once(store.objects.get_opts(&path, options))).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let delete = move |location: Result<Path>| {
            let store = store.clone();
            async move {
                let location = location?;
                let path = location.clone();
                let gone = move |store: &SimulatedStore| {
                    let paths = futures::stream::iter([Ok(path)]).boxed();
                    at_once(store.objects.delete_stream(paths).try_collect::<Vec<_>>())
                };
                store.call("delete", &location, gone).await.map(|_| location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let listing = async move {
            let at = prefix.clone().unwrap_or_default();
            let found = store.call("list", &at, move |store| store.list_now(prefix.as_ref())).await?;
            Ok::<_, Error>(futures::stream::iter(found.into_iter().map(Ok)))
        };
        listing.into_stream().try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (at, prefix) = (prefix.cloned().unwrap_or_default(), prefix.cloned());
        let list = move |store: &SimulatedStore| at_once(store.objects.list_with_delimiter(prefix.as_ref()));
        self.call("list folder", &at, list).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (source, target) = (from.clone(), to.clone());
        self.call("copy", from, move |store| at_once(store.objects.copy_opts(&source, &target, options))).await
    }
}

/// What an operation in memory gives: it never waits.
fn at_once<T>(operation: impl Future<Output = Result<T>>) -> Result<T> {
    let waits = || Err(injected(Failure::Timeout));
    operation.now_or_never().unwrap_or_else(waits)
}

fn injected(failure: Failure) -> Error {
    Error::Generic { store: "SimulatedStore", source: Box::new(failure) }
}

/// A path with `*` for each random id in it, of 32 hexadecimal digits.
fn without_random_parts(path: &Path) -> String {
    let is_id = |word: &str| word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words = path.as_ref().split_inclusive(['/', '-', '.']);
    words.map(|word| if is_id(word.trim_end_matches(['/', '-', '.'])) { "*" } else { word }).collect()
}
