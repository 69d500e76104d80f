//! A collector of traces that records what it is sent: OTLP over HTTP, read by the official schema.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use http::StatusCode;
use http_body_util::BodyExt as _;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
pub(crate) use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// It runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Recording {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
    /// As texts.
    heads: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

impl Recording {
    pub(crate) async fn start() -> Self {
        let requests = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let (recorded, recorded_heads) = (Arc::clone(&requests), Arc::clone(&heads));
        let router = Router::new().fallback(async move |request: Request| {
            let (head, body) = request.into_parts();
            assert_eq!((head.method.as_str(), head.uri.path()), ("POST", "/v1/traces"));
            assert_eq!(head.headers["content-type"], "application/x-protobuf");
            recorded_heads.lock().unwrap().push(format!("{head:?}"));
            let body = body.collect().await.unwrap().to_bytes();
            recorded.lock().unwrap().push(body.to_vec());
            StatusCode::OK
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, requests, heads, _serving: serving }
    }

    /// What `tracing.otlp_endpoint` is to be.
    pub(crate) fn endpoint(&self) -> Option<String> {
        Some(format!("http://{}/", self.address))
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    /// Whether these bytes are in anything that came.
    pub(crate) fn got(&self, bytes: &str) -> bool {
        let in_head = self.heads.lock().unwrap().iter().any(|head| head.contains(bytes));
        in_head
            || self
                .requests
                .lock()
                .unwrap()
                .iter()
                .any(|request| contains(request, bytes.as_bytes()))
    }

    fn decoded(&self) -> Vec<ExportTraceServiceRequest> {
        let requests = self.requests.lock().unwrap();
        requests
            .iter()
            .map(|request| ExportTraceServiceRequest::decode(&**request).unwrap())
            .collect()
    }

    /// Every span that came.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let resources = self.decoded().into_iter().flat_map(|request| request.resource_spans);
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }

    /// The spans of this name.
    pub(crate) fn named(&self, name: &str) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.name == name).collect()
    }

    /// The attributes of who sent the spans.
    pub(crate) fn sender(&self) -> BTreeMap<String, String> {
        let first = self.decoded().into_iter().flat_map(|request| request.resource_spans).next();
        attributes(&first.unwrap().resource.unwrap().attributes)
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Attributes as texts.
pub(crate) fn attributes(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.clone().unwrap().value.unwrap() {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}
