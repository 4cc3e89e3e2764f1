//! An API server of Kubernetes that has no more than lists and watches, in this process; its objects are set by the
//! test. It can go away and come back at the same port.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Resources by their path, and their kind.
const RESOURCES: [(&str, &str); 3] = [
    ("/api/v1/namespaces", "Namespace"),
    ("/api/v1/services", "Service"),
    ("/apis/discovery.k8s.io/v1/endpointslices", "EndpointSlice"),
];

#[derive(Default)]
struct Objects {
    version: u64,
    /// By kind, namespace and name.
    current: BTreeMap<(String, String, String), Value>,
    /// Kind and watch event, in the order of their versions, from 1.
    log: Vec<(String, Value)>,
}

pub(crate) struct Api {
    objects: Arc<Mutex<Objects>>,
    news: Arc<watch::Sender<u64>>,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

type Shared = (Arc<Mutex<Objects>>, Arc<watch::Sender<u64>>);

impl Api {
    pub(crate) fn start() -> Self {
        let address = ([127, 0, 0, 1], 0).into();
        let news = Arc::new(watch::Sender::new(0));
        let mut api = Self { objects: Arc::default(), news, address, runtime: None };
        api.come();
        api
    }

    /// Serves again, at the same port.
    pub(crate) fn come(&mut self) {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind(self.address)).unwrap();
        self.address = listener.local_addr().unwrap();
        let mut router = Router::new().route("/apis/discovery.k8s.io/v1", get(versions));
        for (path, _) in RESOURCES {
            router = router.route(path, get(objects));
        }
        let router = router.with_state((Arc::clone(&self.objects), Arc::clone(&self.news)));
        runtime.spawn(async move { axum::serve(listener, router).await });
        self.runtime = Some(runtime);
    }

    /// Goes away, with all connections.
    pub(crate) fn go(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    pub(crate) fn kubeconfig(&self, dir: &Path) -> PathBuf {
        let path = dir.join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", self.address)}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
        });
        fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// Creates or replaces an object, given in YAML.
    pub(crate) fn put(&self, yaml: &str) {
        self.put_value(serde_yaml_ng::from_str(yaml).unwrap());
    }

    pub(crate) fn put_value(&self, mut object: Value) {
        let mut objects = self.objects.lock().unwrap();
        objects.version += 1;
        object["metadata"]["resourceVersion"] = objects.version.to_string().into();
        let key = key(&object);
        let kind = key.0.clone();
        let before = objects.current.insert(key, object.clone());
        let how = if before.is_some() { "MODIFIED" } else { "ADDED" };
        objects.log.push((kind, json!({"type": how, "object": object})));
        self.news.send_replace(objects.version);
    }

    pub(crate) fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let mut objects = self.objects.lock().unwrap();
        objects.version += 1;
        let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        let mut object = objects.current.remove(&key).unwrap();
        object["metadata"]["resourceVersion"] = objects.version.to_string().into();
        objects.log.push((kind.to_owned(), json!({"type": "DELETED", "object": object})));
        self.news.send_replace(objects.version);
    }
}

fn key(object: &Value) -> (String, String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    (text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]))
}

async fn versions() -> Response {
    let resource = json!({"name": "endpointslices", "singularName": "", "namespaced": true,
        "kind": "EndpointSlice", "verbs": ["list", "watch"]});
    let list = json!({"kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": "discovery.k8s.io/v1", "resources": [resource]});
    axum::Json(list).into_response()
}

async fn objects(
    uri: Uri,
    State((objects, news)): State<Shared>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let Some((_, kind)) = RESOURCES.iter().find(|(path, _)| *path == uri.path()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let version = query.get("resourceVersion").and_then(|text| text.parse::<usize>().ok());
    if query.get("watch").is_some_and(|watch| watch == "true" || watch == "1") {
        let start = (objects, news.subscribe(), version.unwrap_or(0));
        let lines = stream::unfold(start, move |(objects, mut news, mut next)| async move {
            loop {
                let event = objects.lock().unwrap().log.get(next).cloned();
                match event {
                    Some((of, event)) => {
                        next += 1;
                        if of == *kind {
                            let line = Ok::<_, Infallible>(format!("{event}\n"));
                            return Some((line, (objects, news, next)));
                        }
                    }
                    None => news.changed().await.ok()?,
                }
            }
        });
        return Body::from_stream(lines).into_response();
    }
    let objects = objects.lock().unwrap();
    let items: Vec<&Value> =
        objects.current.iter().filter(|((of, ..), _)| of == kind).map(|(_, one)| one).collect();
    let list = json!({"kind": format!("{kind}List"), "apiVersion": "v1",
        "metadata": {"resourceVersion": objects.version.to_string()}, "items": items});
    axum::Json(list).into_response()
}
