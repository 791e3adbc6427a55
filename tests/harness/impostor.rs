//! An HTTPS server that someone else runs, with a certificate of the test's choice.

use super::certificates::Certificate;
use super::daemon::Daemon;
use super::lab::{Lab, address};

/// Its address.
pub const IMPOSTOR: &str = "127.0.1.97";

/// Answers every GET with a status. Connections do not wait for one another.
const SERVER: &str = r#"
import http.server, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(sys.argv[3]))
        self.send_header("Content-Length", "0")
        self.end_headers()
server = http.server.ThreadingHTTPServer(("127.0.1.97", 443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(
    server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
"#;

/// Starts it. Its log has a line for each request.
pub fn impostor(lab: &Lab, name: &str, made: &Certificate, status: u16) -> Daemon {
    let (certificate, key) = (made.certificate.to_str().unwrap(), made.key.to_str().unwrap());
    let line = ["python3", "-c", SERVER, certificate, key, &status.to_string()];
    lab.daemon(name, &line).accepts(address(&format!("{IMPOSTOR}:443")))
}
