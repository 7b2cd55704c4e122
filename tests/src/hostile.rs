//! Hostile and broken receivers.
//!
//! Each receiver plays one [`Hostility`] on every connection and records how long the client stayed. A
//! worker's attempt is over when the worker closes the connection. A receiver closes a connection by itself
//! only if that is part of its hostility.

use std::{
    any::Any,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
    time::{interval, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::Certificates;

/// What a receiver does to its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hostility {
    /// Accepts the request and sends nothing.
    NeverAnswers,
    /// Sends the status line and the headers at one byte per second.
    HeadByTheSecond,
    /// Sends a status of 200, and then the body at one byte per second.
    BodyByTheSecond,
    /// Sends this status and an endless body.
    EndlessBody(u16),
    /// Sends an endless sequence of headers.
    EndlessHeaders,
    /// Sends a single header of endless length.
    EndlessHeader,
    /// Sends `100 Continue` endlessly.
    EndlessContinue,
    /// Sends `103 Early Hints` endlessly, one per second.
    SlowEarlyHints,
    /// Announces a longer body than it sends, and closes the connection.
    LengthTooLong,
    /// Announces a longer body than it sends, and keeps the connection open.
    LengthTooLongAndStays,
    /// Sends this status and a longer body than it announces.
    LengthTooShort(u16),
    /// Sends two different `Content-Length` headers.
    LengthsDiffer,
    /// Sends a negative `Content-Length`.
    LengthNegative,
    /// Accepts the request and closes the connection.
    Closes,
    /// Resets the connection before it sends a response.
    ResetBefore,
    /// Resets the connection in the middle of the body.
    ResetWithin,
    /// Redirects to itself.
    RedirectLoop,
    /// Redirects to the metadata service of a cloud provider.
    RedirectInward,
    /// Sends this status and a small compressed body that unpacks to a huge one, repeated endlessly.
    GzipBomb(u16),
    /// Sends the greeting of a mail server.
    NotHttp,
    /// Switches to another protocol.
    SwitchesProtocols,
    /// Never accepts the connection.
    NeverAccepts,
    /// Does not listen on its port.
    NotListening,
    /// Presents a self-signed certificate.
    SelfSigned,
    /// Presents a certificate of an unknown authority.
    UnknownAuthority,
    /// Presents a certificate that expired in 2020.
    Expired,
    /// Presents a certificate that becomes valid in 2200.
    NotYetValid,
    /// Presents a certificate for a different host.
    WrongHost,
    /// Never answers the TLS handshake.
    HandshakeStalls,
    /// Closes the connection during the TLS handshake.
    HandshakeCut,
    /// Speaks plain HTTP where the client expects TLS.
    NotTls,
    /// Negotiates HTTP/2 and then sends nothing.
    SilentHttp2,
    /// Negotiates HTTP/2 and then sends pings endlessly.
    EndlessHttp2Pings,
}

/// A receiver with one hostility. Dropping it closes the socket.
pub struct Hostile {
    address: SocketAddr,
    hostility: Hostility,
    log: Arc<Log>,
    serving: Option<JoinHandle<()>>,
    /// Keeps the socket in its state when no task serves it.
    _held: Box<dyn Any + Send + Sync>,
}

/// A connection from the receiver's point of view.
#[derive(Clone, Debug)]
pub struct Visit {
    /// When the receiver accepted it.
    pub began: Instant,
    /// When the client closed the connection, or the receiver reset it; `None` while it is open.
    pub ended: Option<Instant>,
    /// The first bytes that the client sent: the request, or the bytes of a TLS handshake. For an encrypted
    /// connection, the decrypted bytes.
    pub received: String,
    /// The number of bytes that the receiver could send. This includes what the client has read and what the
    /// buffers of two sockets hold.
    pub sent_bytes: usize,
}

#[derive(Default)]
struct Log(Mutex<Vec<Visit>>);

/// What a receiver sends after the client has sent something.
#[derive(Clone)]
struct Script {
    head: Vec<u8>,
    then: Then,
}

#[derive(Clone)]
enum Then {
    /// Shuts down the sending side.
    Close,
    /// Sends nothing more and waits until the client closes the connection.
    Stay,
    /// Resets the connection.
    Reset,
    /// Sends these bytes repeatedly, as fast as the client reads them.
    Repeat(Vec<u8>),
    /// Sends the pieces one by one at this interval, and starts again after the last one.
    Drip(Duration, Vec<Vec<u8>>),
}

/// The maximum number of bytes that are recorded of what a client sends.
const RECEIVED_BYTES_MAX: usize = 4096;
/// The uncompressed size of one member of the gzip bomb, in MiB.
const BOMB_MIB: usize = 64;

impl Hostile {
    /// Starts a receiver on a free port of 127.0.0.1.
    pub async fn start(hostility: Hostility, certificates: &Certificates) -> Self {
        let log = Arc::<Log>::default();
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = socket.local_addr().unwrap();
        let (serving, held): (_, Box<dyn Any + Send + Sync>) = match hostility {
            Hostility::NotListening => (None, Box::new(socket)),
            Hostility::NeverAccepts => {
                let (listener, mut queue) = (socket.listen(1).unwrap(), Vec::new());
                // When the accept queue is full, Linux does not answer further connection attempts.
                while let Ok(stream) = timeout(Duration::from_millis(100), TcpStream::connect(address)).await
                {
                    queue.push(stream.unwrap());
                }
                (None, Box::new((listener, queue)))
            }
            _ => {
                let listener = socket.listen(1024).unwrap();
                let (tls, script) = (acceptor(hostility, certificates), script(hostility));
                let serving = tokio::spawn(serve(listener, tls, script, Arc::clone(&log)));
                (Some(serving), Box::new(()))
            }
        };
        Self {
            address,
            hostility,
            log,
            serving,
            _held: held,
        }
    }

    /// Returns the hostility.
    pub fn hostility(&self) -> Hostility {
        self.hostility
    }

    /// Returns the URL to register.
    pub fn url(&self) -> String {
        use Hostility as H;
        let scheme = match self.hostility {
            H::SelfSigned
            | H::UnknownAuthority
            | H::Expired
            | H::NotYetValid
            | H::WrongHost
            | H::HandshakeStalls
            | H::HandshakeCut
            | H::NotTls
            | H::SilentHttp2
            | H::EndlessHttp2Pings => "https",
            _ => "http",
        };
        format!("{scheme}://{}/hook", self.address)
    }

    /// Returns all connections so far, in order.
    pub fn visits(&self) -> Vec<Visit> {
        self.log.lock().clone()
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

impl fmt::Display for Hostility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Visit {
    /// Returns how long the connection lasted. Panics while it is open.
    pub fn took(&self) -> Duration {
        self.ended.expect("the client has closed the connection") - self.began
    }
}

impl Log {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Visit>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> usize {
        let mut visits = self.lock();
        visits.push(Visit {
            began: Instant::now(),
            ended: None,
            received: String::new(),
            sent_bytes: 0,
        });
        visits.len() - 1
    }
}

fn acceptor(hostility: Hostility, certificates: &Certificates) -> Option<TlsAcceptor> {
    Some(match hostility {
        Hostility::SelfSigned => certificates.self_signed(),
        Hostility::UnknownAuthority => Certificates::new().good(&[]),
        Hostility::Expired => certificates.expired(),
        Hostility::NotYetValid => certificates.not_yet_valid(),
        Hostility::WrongHost => certificates.of_another_host(),
        Hostility::SilentHttp2 | Hostility::EndlessHttp2Pings => certificates.good(&["h2"]),
        _ => return None,
    })
}

fn script(hostility: Hostility) -> Script {
    Script {
        head: head(hostility).into_bytes(),
        then: then(hostility),
    }
}

/// Returns what the receiver sends first.
fn head(hostility: Hostility) -> String {
    use Hostility as H;
    let ok = |rest: &str| format!("HTTP/1.1 200 OK\r\n{rest}");
    match hostility {
        H::NeverAnswers
        | H::HandshakeStalls
        | H::SilentHttp2
        | H::NeverAccepts
        | H::NotListening
        | H::HeadByTheSecond
        | H::EndlessContinue
        | H::SlowEarlyHints
        | H::Closes
        | H::HandshakeCut
        | H::ResetBefore => String::new(),
        H::BodyByTheSecond => ok("Content-Length: 100\r\n\r\n"),
        H::EndlessBody(status) => {
            format!("HTTP/1.1 {status} Long\r\nTransfer-Encoding: chunked\r\n\r\n")
        }
        H::EndlessHeaders => ok(""),
        H::EndlessHeader => ok("X-Endless: "),
        // An empty SETTINGS frame.
        H::EndlessHttp2Pings => "\0\0\0\u{4}\0\0\0\0\0".to_owned(),
        H::LengthTooLong | H::LengthTooLongAndStays | H::ResetWithin => {
            ok("Content-Length: 100\r\n\r\nten bytes!")
        }
        H::LengthTooShort(status) => {
            format!("HTTP/1.1 {status} Short\r\nContent-Length: 3\r\n\r\nten bytes!")
        }
        H::LengthsDiffer => ok("Content-Length: 3\r\nContent-Length: 10\r\n\r\nten bytes!"),
        H::LengthNegative => ok("Content-Length: -1\r\n\r\nten bytes!"),
        H::RedirectLoop => redirect("/hook"),
        H::RedirectInward => redirect("http://169.254.169.254/latest/meta-data/"),
        H::GzipBomb(status) => {
            format!("HTTP/1.1 {status} Boom\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n")
        }
        H::NotHttp => "220 mail.example.com ESMTP ready\r\n".to_owned(),
        H::SwitchesProtocols => {
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n".to_owned()
        }
        H::NotTls => "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_owned(),
        // The response that a client receives if it does not verify the certificate.
        H::SelfSigned | H::UnknownAuthority | H::Expired | H::NotYetValid | H::WrongHost => {
            ok("Content-Length: 0\r\nConnection: close\r\n\r\n")
        }
    }
}

/// Returns what the receiver does after that.
fn then(hostility: Hostility) -> Then {
    use Hostility as H;
    match hostility {
        H::NeverAnswers
        | H::HandshakeStalls
        | H::SilentHttp2
        | H::NeverAccepts
        | H::NotListening
        | H::LengthTooLongAndStays
        | H::LengthTooShort(_)
        | H::NotHttp
        | H::SwitchesProtocols => Then::Stay,
        H::LengthTooLong
        | H::LengthsDiffer
        | H::LengthNegative
        | H::Closes
        | H::HandshakeCut
        | H::RedirectLoop
        | H::RedirectInward
        | H::NotTls
        | H::SelfSigned
        | H::UnknownAuthority
        | H::Expired
        | H::NotYetValid
        | H::WrongHost => Then::Close,
        H::ResetBefore | H::ResetWithin => Then::Reset,
        H::HeadByTheSecond => by_the_second(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        H::BodyByTheSecond => by_the_second(&[b'x'; 100]),
        H::SlowEarlyHints => Then::Drip(
            Duration::from_secs(1),
            vec![b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n".to_vec()],
        ),
        H::EndlessBody(_) => Then::Repeat([b"3e8\r\n", &[b'x'; 1000][..], b"\r\n"].concat()),
        H::EndlessHeaders => Then::Repeat(b"X-Endless: 1\r\n".repeat(50)),
        H::EndlessHeader => Then::Repeat(vec![b'x'; 1000]),
        H::EndlessContinue => Then::Repeat(b"HTTP/1.1 100 Continue\r\n\r\n".repeat(50)),
        H::EndlessHttp2Pings => Then::Repeat(b"\0\0\x08\x06\0\0\0\0\0pingping".repeat(50)),
        H::GzipBomb(_) => Then::Repeat(bomb().clone()),
    }
}

fn by_the_second(bytes: &[u8]) -> Then {
    let pieces = bytes.iter().map(|byte| vec![*byte]);
    Then::Drip(Duration::from_secs(1), pieces.collect())
}

fn redirect(to: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

/// Returns a gzip member that contains only zeros. Members may follow one another (RFC 1952 section 2.2).
fn bomb() -> &'static Vec<u8> {
    static BOMB: OnceLock<Vec<u8>> = OnceLock::new();
    BOMB.get_or_init(|| {
        let pack = format!("head -c {BOMB_MIB}M /dev/zero | gzip -9");
        let packed = Command::new("sh").args(["-c", &pack]).output().unwrap().stdout;
        assert!(
            (10_000..1_000_000).contains(&packed.len()),
            "{} bytes of gzip: is there no gzip?",
            packed.len()
        );
        packed
    })
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, script: Script, log: Arc<Log>) {
    let mut visits = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let visit = log.begin();
        let (tls, script, log) = (tls.clone(), script.clone(), Arc::clone(&log));
        visits.spawn(async move {
            match tls {
                None => {
                    let stream = play(stream, &script, visit, &log).await;
                    if matches!(script.then, Then::Reset) {
                        let _ = stream.set_zero_linger();
                    }
                }
                // An error means that the client rejected the certificate before it sent a request.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        play(stream, &script, visit, &log).await;
                    }
                }
            }
            log.lock()[visit].ended = Some(Instant::now());
        });
    }
}

/// Waits until the client has sent something, and then plays the script until the connection ends.
async fn play<S: AsyncRead + AsyncWrite + Unpin>(stream: S, script: &Script, visit: usize, log: &Log) -> S {
    let (mut reading, mut writing) = tokio::io::split(stream);
    let mut first = vec![0; RECEIVED_BYTES_MAX];
    let length = reading.read(&mut first).await.unwrap_or(0);
    log.lock()[visit].received = String::from_utf8_lossy(&first[..length]).into_owned();
    if length > 0 {
        tokio::select! {
            () = act(&mut writing, script, visit, log) => {}
            () = until_closed(&mut reading) => {}
        }
        if matches!(script.then, Then::Close) {
            until_closed(&mut reading).await;
        }
    }
    reading.unsplit(writing)
}

/// Sends what the script says. Returns when nothing is left to send, and never returns if the receiver has to
/// wait for the client to close the connection.
async fn act(writing: &mut (impl AsyncWrite + Unpin), script: &Script, visit: usize, log: &Log) {
    let mut send = async |bytes: &[u8]| {
        let sent = writing.write(bytes).await.unwrap_or(0);
        log.lock()[visit].sent_bytes += sent;
        sent
    };
    if !script.head.is_empty() && send(&script.head).await < script.head.len() {
        return;
    }
    match &script.then {
        Then::Reset => {}
        Then::Close => {
            let _ = writing.shutdown().await;
        }
        Then::Stay => {
            let _ = writing.flush().await;
            std::future::pending::<()>().await;
        }
        Then::Repeat(bytes) => {
            let mut at = 0;
            loop {
                match send(&bytes[at..]).await {
                    0 => return,
                    sent => at = (at + sent) % bytes.len(),
                }
            }
        }
        Then::Drip(every, pieces) => {
            let mut pace = interval(*every);
            for piece in pieces.iter().cycle() {
                pace.tick().await;
                if send(piece).await < piece.len() {
                    return;
                }
            }
        }
    }
}

async fn until_closed(reading: &mut (impl AsyncRead + Unpin)) {
    let mut rest = [0; 1024];
    while reading.read(&mut rest).await.is_ok_and(|length| length > 0) {}
}
