//! `/metrics` for Prometheus and `/healthz` for whoever restarts daemons.
//!
//! Read-only, loopback unless configured otherwise, a bounded number of connections, each for a
//! bounded time and a single request.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::admin::{Ask, ask};
use crate::metrics;
use crate::report::{Answer, Command};

/// Connections served at a time; the next ones wait in the kernel's backlog.
const CLIENTS: usize = 16;

/// Time for one connection, whatever it does. Prometheus gives up after 10 s by default.
const PATIENCE: Duration = Duration::from_secs(10);

/// The listening socket.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
}

impl HttpServer {
    /// Opens the socket.
    ///
    /// # Errors
    /// An address that is taken or not ours, with the address in the text.
    pub async fn bind(listen: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|e| io::Error::new(e.kind(), format!("[metrics] listen = {listen}: {e}")))?;
        Ok(Self { listener })
    }

    /// The address it listens on, with the port the system chose where zero was asked.
    ///
    /// # Errors
    /// As the system reports.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the future is dropped.
    pub async fn serve(self, asks: mpsc::Sender<Ask>) {
        let places = Arc::new(Semaphore::new(CLIENTS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let asks = asks.clone();
                    tokio::spawn(async move {
                        // A client that is too slow is cut off; there is nobody to tell.
                        let _ = timeout(PATIENCE, serve_one(stream, asks)).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "metrics socket cannot accept");
                    // Out of descriptors, most likely: trying at once would spin.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }
}

async fn serve_one(stream: TcpStream, asks: mpsc::Sender<Ask>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let asks = asks.clone();
        async move { Ok::<_, Infallible>(answer(request.method(), request.uri().path(), &asks).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(5))
        .max_buf_size(16 * 1024)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "metrics client went away");
    }
}

async fn answer(method: &Method, path: &str, asks: &mpsc::Sender<Ask>) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    let reply = |status: StatusCode, kind: &'static str, body: String| {
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, kind.parse().expect("a constant parses"));
        response
    };
    if method != Method::GET && method != Method::HEAD {
        let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET only\n".into());
        response.headers_mut().insert(ALLOW, "GET, HEAD".parse().expect("a constant parses"));
        return response;
    }
    match path {
        "/metrics" => match ask(asks, Command::Report).await {
            Ok(Answer::Report(report)) => reply(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                metrics::page(&report),
            ),
            Ok(_) => reply(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "no report\n".into()),
            Err(why) => reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, why + "\n"),
        },
        // Alive means that the control loop still answers, not just that a thread accepts.
        "/healthz" => match ask(asks, Command::Status).await {
            Ok(_) => reply(StatusCode::OK, TEXT, "ok\n".into()),
            Err(why) => reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, why + "\n"),
        },
        _ => reply(StatusCode::NOT_FOUND, TEXT, "try /metrics or /healthz\n".into()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::report::Report;

    async fn fetch(at: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[test]
    fn metrics_health_and_the_rest() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = HttpServer::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
            let at = server.local_addr().unwrap();
            let (asks, mut asked) = mpsc::channel::<Ask>(4);
            let node = tokio::spawn(async move {
                while let Some(ask) = asked.recv().await {
                    let mut report = Report::default();
                    report.status.uptime_s = 42.0;
                    let _ = ask.answer.send(Answer::Report(Box::new(report)));
                }
            });
            tokio::spawn(server.serve(asks));
            let page = fetch(at, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
            assert!(page.starts_with("HTTP/1.1 200 OK"), "{page}");
            assert!(page.contains("text/plain; version=0.0.4"));
            assert!(page.contains("\nthalweg_uptime_seconds 42\n"), "{page}");
            let health = fetch(at, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
            assert!(health.ends_with("\r\n\r\nok\n"), "{health}");
            let lost = fetch(at, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
            assert!(lost.starts_with("HTTP/1.1 404"), "{lost}");
            let post = fetch(at, "POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
            assert!(post.starts_with("HTTP/1.1 405"), "{post}");
            node.abort();
            let _ = node.await;
            let dead = fetch(at, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
            assert!(dead.starts_with("HTTP/1.1 503"), "{dead}");
            let taken = HttpServer::bind(at).await.unwrap_err().to_string();
            assert!(taken.contains("[metrics] listen = 127.0.0.1:"), "{taken}");
        });
    }
}
