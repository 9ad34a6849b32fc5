//! `follow --http`: lookups and figures of a replica, for serving in any language.
//!
//! | request | answer |
//! |---|---|
//! | `POST /lookup/TABLE`, JSON `{"keys": [1, 2]}` | `{"commit": "1.5", "found": [true, false], "rows": [[0.5, ...], [...]]}` |
//! | the same, `application/octet-stream`: keys as u64, little-endian | rows as f32, little-endian, then a byte a key: 1 if it has a row |
//! | `GET /tables` | name, dim and rows of each |
//! | `GET /metrics` | figures, as Prometheus reads them |
//!
//! Each answer to a lookup is of one commit, which the header `x-embedrock-commit` names too.
#![forbid(unsafe_code)]

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use embedrock::{CatchUp, Error, Replica};
use metrics::{counter, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Semaphore;

/// Keys of a lookup.
const MAX_KEYS: usize = 65_536;
/// Bytes of a request: so many keys, of 20 digits and a comma each, and what is around them.
const MAX_REQUEST_BYTES: usize = MAX_KEYS * 21 + 1024;
/// Bytes of the rows of an answer.
const MAX_ROWS_BYTES: usize = 64 << 20;
/// Lookups at work at once; others wait. So many answers are held in memory.
const LOOKUPS_AT_ONCE: usize = 8;
const COMMIT: &str = "x-embedrock-commit";
const BINARY: &str = "application/octet-stream";

struct Served {
    replica: Arc<Replica>,
    figures: PrometheusHandle,
    lookups: Semaphore,
}

#[derive(Deserialize)]
struct Request {
    keys: Vec<u64>,
}

#[derive(Serialize)]
struct Answer<'a> {
    commit: &'a str,
    found: &'a [bool],
    rows: Vec<&'a [f32]>,
}

/// Answers at `address` until the process ends.
pub(crate) fn serve(replica: Arc<Replica>, address: SocketAddr) -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind(address)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address} for --http: {error}")))?;
    listener.set_nonblocking(true)?;
    let figures = PrometheusBuilder::new().install_recorder()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    eprintln!("serving at http://{}", listener.local_addr()?);
    let served = Arc::new(Served { replica, figures, lookups: Semaphore::new(LOOKUPS_AT_ONCE) });
    let routes = Router::new()
        .route("/lookup/{table}", post(lookup))
        .route("/tables", get(tables))
        .route("/metrics", get(figures_now))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .with_state(served);
    let _detached = thread::Builder::new().name("http".into()).spawn(move || {
        let ended = runtime.block_on(async { axum::serve(tokio::net::TcpListener::from_std(listener)?, routes).await });
        if let Err(error) = ended {
            eprintln!("warning: nothing is served any more: {error}");
        }
    })?;
    Ok(())
}

/// Counts what a look at the store did.
pub(crate) fn count(report: &CatchUp) {
    counter!("embedrock_replica_commits_total").increment(report.commits);
    counter!("embedrock_replica_read_bytes_total").increment(report.bytes);
    counter!("embedrock_replica_restarts_total").increment(u64::from(report.restarted.is_some()));
}

async fn lookup(State(served): State<Arc<Served>>, Path(table): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    let Ok(_permit) = served.lookups.acquire().await else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    let replica = Arc::clone(&served.replica);
    let binary = headers.get(CONTENT_TYPE).is_some_and(|kind| kind == BINARY);
    // A row may have to come from the disk.
    let answered = tokio::task::spawn_blocking(move || answer(&replica, &table, binary, &body)).await;
    answered.unwrap_or_else(|error| refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))
}

fn refuse(status: StatusCode, why: &str) -> Response {
    (status, format!("{why}\n")).into_response()
}

fn failed(error: &Error) -> Response {
    let status = match error {
        Error::UnknownTable { .. } => StatusCode::NOT_FOUND,
        // Between a commit that failed half way and the next look.
        Error::Poisoned { .. } => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refuse(status, &error.to_string())
}

fn keys_of(binary: bool, body: &[u8]) -> Result<Vec<u64>, String> {
    match body.as_chunks() {
        (keys, []) if binary => Ok(keys.iter().map(|key| u64::from_le_bytes(*key)).collect()),
        (_, rest) if binary => Err(format!("keys have 8 bytes each, {} are left", rest.len())),
        _ => serde_json::from_slice(body).map(|Request { keys }| keys).map_err(|error| error.to_string()),
    }
}

fn answer(replica: &Replica, table: &str, binary: bool, body: &[u8]) -> Response {
    let begun = Instant::now();
    let keys = match keys_of(binary, body) {
        Ok(keys) => keys,
        Err(why) => return refuse(StatusCode::BAD_REQUEST, &why),
    };
    let dim = match replica.dim(table) {
        Ok(dim) => dim,
        Err(error) => return failed(&error),
    };
    if keys.len() > MAX_KEYS || keys.len() * dim > MAX_ROWS_BYTES / 4 {
        let most = MAX_KEYS.min(MAX_ROWS_BYTES / 4 / dim.max(1));
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, &format!("{} keys, at most {most} at once", keys.len()));
    }
    let (mut rows, mut found) = (vec![0.0; keys.len() * dim], vec![false; keys.len()]);
    let commit = match replica.lookup_at(table, &keys, &mut rows, &mut found) {
        Ok((commit, _)) => commit.to_string(),
        Err(error) => return failed(&error),
    };
    let looked_up = |name: &'static str| counter!(name, "table" => table.to_owned());
    looked_up("embedrock_replica_looked_up_keys_total").increment(keys.len() as u64);
    looked_up("embedrock_replica_found_keys_total").increment(found.iter().filter(|found| **found).count() as u64);
    let response = if binary {
        let bytes = rows.iter().flat_map(|value| value.to_le_bytes()).chain(found.iter().map(|found| u8::from(*found)));
        ([(CONTENT_TYPE.as_str(), BINARY), (COMMIT, &commit)], bytes.collect::<Vec<u8>>()).into_response()
    } else {
        let answer = Answer { commit: &commit, found: &found, rows: rows.chunks(dim).collect() };
        match serde_json::to_vec(&answer) {
            Ok(bytes) => ([(CONTENT_TYPE.as_str(), "application/json"), (COMMIT, &commit)], bytes).into_response(),
            Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    };
    counter!("embedrock_replica_lookups_total").increment(1);
    gauge!("embedrock_replica_lookup_seconds").increment(begun.elapsed().as_secs_f64());
    response
}

async fn tables(State(served): State<Arc<Served>>) -> Response {
    let replica = &served.replica;
    let rows = replica.rows();
    let listed = replica.tables().into_iter().map(|schema| {
        let rows = rows.iter().find(|(name, _)| name == schema.name()).map_or(0, |(_, rows)| *rows);
        json!({"name": schema.name(), "dim": schema.dim(), "rows": rows})
    });
    axum::Json(json!({"commit": replica.at().to_string(), "tables": listed.collect::<Vec<_>>()})).into_response()
}

async fn figures_now(State(served): State<Arc<Served>>) -> Response {
    let replica = Arc::clone(&served.replica);
    // The lag may have to be asked for at a remote place.
    let lag = tokio::task::spawn_blocking(move || replica.lag()).await;
    if let Ok(Ok(lag)) = lag {
        gauge!("embedrock_replica_lag_seconds").set(lag.seconds);
        gauge!("embedrock_replica_lag_commits").set(lag.commits.map_or(f64::NAN, |commits| commits as f64));
    }
    gauge!("embedrock_replica_memory_bytes").set(served.replica.memory_bytes() as f64);
    for (table, rows) in served.replica.rows() {
        gauge!("embedrock_replica_rows", "table" => table).set(rows as f64);
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], served.figures.render()).into_response()
}
