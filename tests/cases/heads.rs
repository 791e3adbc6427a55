//! Request heads: complete, incomplete and invalid ones.

use pullgate::listen::http::head::{HeadFault, LARGEST_HEAD, TargetForm};
use pullgate::policy::{NameError, TargetError};

/// The verdict on a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Complete and valid.
    Whole,
    /// Valid so far, but incomplete.
    Half,
    /// Must be rejected.
    Wrong(HeadFault),
}

const ASK: &str = "CONNECT contoso.azurecr.io:443 HTTP/1.1\r\n";
const HOST: &str = "Host: contoso.azurecr.io:443\r\n";

/// Heads and their verdicts. Every complete head requests contoso.azurecr.io:443.
pub fn heads() -> Vec<(Vec<u8>, Verdict)> {
    let texts = texts().into_iter().map(|(text, verdict)| (text.into_bytes(), verdict));
    let targets = TARGETS.iter().map(|(target, fault)| {
        let text = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        (text.into_bytes(), Verdict::Wrong(HeadFault::Target(*fault)))
    });
    // Non-text bytes and control characters, in a value and in the target.
    let bytes = [0x00, 0x01, 0x08, 0x0b, 0x0c, 0x1b, 0x7f, 0x80, 0x85, 0xa0, 0xc0, 0xff];
    let characters = bytes.into_iter().flat_map(|byte| {
        let value = [ASK.as_bytes(), b"X: a", &[byte], b"b\r\n\r\n"].concat();
        let target =
            [b"CONNECT contoso", &[byte][..], b".azurecr.io:443 HTTP/1.1\r\n\r\n"].concat();
        [value, target].map(|head| (head, Verdict::Wrong(HeadFault::Character)))
    });
    texts.chain(targets).chain(characters).collect()
}

/// Targets that are not a valid `host:port`, or that no policy can contain.
const TARGETS: &[(&str, TargetError)] = {
    use NameError::*;
    use TargetError::*;
    &[
        ("contoso.azurecr.io", PortMissing),
        ("contoso.azurecr.io:", Port),
        ("contoso.azurecr.io:0", Port),
        ("contoso.azurecr.io:00443", Port),
        ("contoso.azurecr.io:+443", Port),
        ("contoso.azurecr.io:-443", Port),
        ("contoso.azurecr.io:65536", Port),
        ("contoso.azurecr.io:4294967739", Port),
        ("contoso.azurecr.io:443,80", Port),
        ("contoso.azurecr.io:0x1bb", Port),
        ("contoso.azurecr.io:https", Port),
        ("contoso.azurecr.io:443/", Form),
        ("contoso.azurecr.io:443?x", Form),
        ("contoso.azurecr.io:443#x", Form),
        ("/contoso.azurecr.io:443", Form),
        ("//contoso.azurecr.io:443", Form),
        ("https://contoso.azurecr.io:443", Form),
        ("https://contoso.azurecr.io:443/", Form),
        ("user@contoso.azurecr.io:443", Form),
        ("user:secret@contoso.azurecr.io:443", Form),
        ("evil.example.com:443@contoso.azurecr.io:443", Form),
        ("contoso.azurecr.io:443@evil.example.com:443", Form),
        ("contoso.azurecr.io%00:443", Form),
        ("contoso%2eazurecr.io:443", Form),
        ("contoso.azurecr.io\\:443", Form),
        ("contoso.azurecr.io.:443", Name(TrailingDot)),
        (".contoso.azurecr.io:443", Name(LabelLength)),
        ("contoso..azurecr.io:443", Name(LabelLength)),
        ("-contoso.azurecr.io:443", Name(LabelDash)),
        ("con_toso.azurecr.io:443", Name(Character)),
        ("contoso.azurecr.io;:443", Name(Character)),
        ("contoso,azurecr.io:443", Name(Character)),
        ("\"contoso.azurecr.io\":443", Name(Character)),
        ("*.azurecr.io:443", Name(Wildcard)),
        ("*:443", Name(Wildcard)),
        (":443", Name(Empty)),
        ("127.0.0.1:443", Name(IpLiteral)),
        ("127.1:443", Name(IpLiteral)),
        ("0x7f.1:443", Name(IpLiteral)),
        ("0177.0.0.1:443", Name(IpLiteral)),
        ("2130706433:443", Name(IpLiteral)),
        ("127.0.0.1.:443", Name(IpLiteral)),
        ("169.254.169.254:80", Name(IpLiteral)),
        ("[::1]:443", Name(IpLiteral)),
        ("[::ffff:10.0.0.1]:443", Name(IpLiteral)),
        ("::1", Name(IpLiteral)),
        ("::1:443", Name(IpLiteral)),
        ("[contoso.azurecr.io]:443", Name(IpLiteral)),
        ("contoso.azurecr.io:443:443", Name(IpLiteral)),
        ("[fe80::1%25eth0]:443", Form),
        ("*", PortMissing),
        ("/", Form),
        ("/v2/", Form),
    ]
};

fn texts() -> Vec<(String, Verdict)> {
    use HeadFault::*;
    use Verdict::{Half, Whole, Wrong};
    let ask = |fields: &str| format!("{ASK}{fields}\r\n");
    let named = |fields: &str| format!("{ASK}{HOST}{fields}\r\n");
    let filled = |length: usize| {
        let fixed = named("X: \r\n").len();
        named(&format!("X: {}\r\n", "a".repeat(length - fixed)))
    };
    vec![
        (named(""), Whole),
        (ask(""), Wrong(HostMissing)),
        (ask("X: a\r\n"), Wrong(HostMissing)),
        ("GET / HTTP/1.1\r\n\r\n".into(), Wrong(HostMissing)),
        (ask("Host: contoso.azurecr.io:443\r\n"), Whole),
        (ask("Host: Contoso.AzureCR.io\r\n"), Whole),
        (ask("host:contoso.azurecr.io:443\r\nUser-Agent: Go\r\n"), Whole),
        (named("Proxy-Connection: keep-alive\r\nX: a\tb\r\n"), Whole),
        ("CONNECT contoso.azurecr.io:443 HTTP/1.0\r\n\r\n".into(), Whole),
        (format!("{}\u{16}\u{3}", named("")), Whole),
        (ASK.into(), Half),
        (String::new(), Half),
        (ask("Host: fabrikam.azurecr.io:443\r\n"), Wrong(HostDiffers)),
        (ask("Host: contoso.azurecr.io:8443\r\n"), Wrong(HostDiffers)),
        (ask("Host: contoso.azurecr.io:\r\n"), Wrong(HostDiffers)),
        (ask("Host: contoso.azurecr.io.evil.com\r\n"), Wrong(HostDiffers)),
        (ask("Host:\r\n"), Wrong(HostDiffers)),
        (ask("Host: contoso.azurecr.io\r\nHost: contoso.azurecr.io\r\n"), Wrong(HostTwice)),
        (named("Content-Length: 0\r\n"), Wrong(Content)),
        (named("Transfer-Encoding: chunked\r\n"), Wrong(Content)),
        (named("X: a\r\n folded\r\n"), Wrong(FieldLine)),
        (named("X : a\r\n"), Wrong(FieldLine)),
        (named(": a\r\n"), Wrong(FieldLine)),
        (named("no colon\r\n"), Wrong(FieldLine)),
        (named("X: a\nY: b\r\n"), Wrong(BareLineEnd)),
        (named("X: a\rb\r\n"), Wrong(BareLineEnd)),
        (named("X: \0\r\n"), Wrong(Character)),
        (named("X: \u{e9}\r\n"), Wrong(Character)),
        (named(&"X: a\r\n".repeat(65)), Wrong(TooLarge)),
        (named(&format!("X: {}\r\n", "a".repeat(LARGEST_HEAD))), Wrong(TooLarge)),
        ("\r\nCONNECT contoso.azurecr.io:443 HTTP/1.1\r\n\r\n".into(), Wrong(RequestLine)),
        ("CONNECT  contoso.azurecr.io:443 HTTP/1.1\r\n\r\n".into(), Wrong(RequestLine)),
        ("CONNECT contoso.azurecr.io:443\r\n\r\n".into(), Wrong(RequestLine)),
        ("CONNECT contoso.azurecr.io:443 HTTP/1.1 \r\n\r\n".into(), Wrong(RequestLine)),
        ("CONNECT\tcontoso.azurecr.io:443 HTTP/1.1\r\n\r\n".into(), Wrong(RequestLine)),
        ("CONNECT contoso.azurecr.io:443 HTTP/1.1\n\n".into(), Wrong(BareLineEnd)),
        ("CONNECT contoso.azurecr.io:443 HTTP/1.2\r\n\r\n".into(), Wrong(Version)),
        ("CONNECT contoso.azurecr.io:443 http/1.1\r\n\r\n".into(), Wrong(RequestLine)),
        (
            format!("connect contoso.azurecr.io:443 HTTP/1.1\r\n{HOST}\r\n"),
            Wrong(Method(TargetForm::Other)),
        ),
        (
            "GET http://contoso.azurecr.io/ HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            Wrong(Method(TargetForm::Http)),
        ),
        ("GET HTTPS://contoso.azurecr.io/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), {
            Wrong(Method(TargetForm::Https))
        }),
        ("OPTIONS * HTTP/1.0\r\n\r\n".into(), Wrong(Method(TargetForm::Other))),
        ("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc".into(), {
            Wrong(Method(TargetForm::Path))
        }),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), Wrong(Http2)),
        ("\u{16}\u{3}\u{1}".into(), Wrong(Tls)),
        // Refused when the line ends: more does not come before an answer.
        ("SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u2\r\n".into(), Wrong(RequestLine)),
        ("EHLO client.example.com\r\n".into(), Wrong(RequestLine)),
        ("PRI * HTTP/2.0\r\n".into(), Wrong(Http2)),
        (ask("Host: contoso.azurecr.io:443:443\r\n"), Wrong(HostDiffers)),
        (ask("Host: contoso.azurecr.io:0443\r\n"), Wrong(HostDiffers)),
        (ask("Host: contoso.azurecr.io.\r\n"), Wrong(HostDiffers)),
        (ask("Host: user@contoso.azurecr.io:443\r\n"), Wrong(HostDiffers)),
        (ask("Host: contoso.azurecr.io, evil.example.com\r\n"), Wrong(HostDiffers)),
        (ask("Host: https://contoso.azurecr.io:443/\r\n"), Wrong(HostDiffers)),
        (ask("HOST: contoso.azurecr.io\r\nhost: contoso.azurecr.io\r\n"), Wrong(HostTwice)),
        (ask("Host: contoso.azurecr.io\r\n Host: evil.example.com\r\n"), Wrong(FieldLine)),
        (ask("Host : contoso.azurecr.io\r\n"), Wrong(FieldLine)),
        (ask("Host\t: contoso.azurecr.io\r\n"), Wrong(FieldLine)),
        (ask(" Host: contoso.azurecr.io\r\n"), Wrong(FieldLine)),
        (ask("Host:\tcontoso.azurecr.io\t\r\n"), Whole),
        (named("Content-Length: 5\r\n"), Wrong(Content)),
        (named("content-length:\r\n"), Wrong(Content)),
        (named("Content-Length: 5\r\nContent-Length: 6\r\n"), Wrong(Content)),
        (named("Transfer-Encoding: identity\r\n"), Wrong(Content)),
        (named("TRANSFER-ENCODING: chunked\r\nContent-Length: 5\r\n"), Wrong(Content)),
        (named("Transfer-Encoding\u{b}: chunked\r\n"), Wrong(Character)),
        (named("Transfer_Encoding: chunked\r\n"), Whole),
        (named("Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n"), Whole),
        (named("Expect: 100-continue\r\n"), Whole),
        (named("Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n"), Whole),
        (named(&"X: a\r\n".repeat(63)), Whole),
        (named("X:\r\n"), Whole),
        (named("a=b: c\r\n"), Wrong(FieldLine)),
        (named("(comment): c\r\n"), Wrong(FieldLine)),
        (named("X: a\r\r\n"), Wrong(BareLineEnd)),
        (format!("{ASK}X: a\r\n\n"), Wrong(BareLineEnd)),
        (format!("{ASK}\rX: a\r\n\r\n"), Wrong(BareLineEnd)),
        (format!("{ASK}X: a\r\n\r"), Half),
        (format!("{ASK}X: a"), Half),
        ("CON".into(), Half),
        (filled(LARGEST_HEAD), Whole),
        (filled(LARGEST_HEAD + 1), Wrong(TooLarge)),
        ("C".repeat(LARGEST_HEAD - 1), Half),
        ("C".repeat(LARGEST_HEAD), Wrong(TooLarge)),
        ("\n".into(), Wrong(BareLineEnd)),
        ("\r\n\r\n".into(), Wrong(RequestLine)),
        (" \r\n\r\n".into(), Wrong(RequestLine)),
        (" CONNECT contoso.azurecr.io:443 HTTP/1.1\r\n\r\n".into(), Wrong(RequestLine)),
        ("CONNECT contoso.azurecr.io:443 HTTP/1.1 HTTP/1.1\r\n\r\n".into(), Wrong(RequestLine)),
        ("CONNECT contoso.azurecr.io:443 evil.example.com:443 HTTP/1.1\r\n\r\n".into(), {
            Wrong(RequestLine)
        }),
        ("CONNECT HTTP/1.1\r\n\r\n".into(), Wrong(RequestLine)),
        ("CONNECT\r\n\r\n".into(), Wrong(RequestLine)),
        ("CONNECT contoso.azurecr.io:443 HTTP/1.10\r\n\r\n".into(), Wrong(Version)),
        ("CONNECT contoso.azurecr.io:443 HTTP/1\r\n\r\n".into(), Wrong(Version)),
        ("CONNECT contoso.azurecr.io:443 HTTP/0.9\r\n\r\n".into(), Wrong(Version)),
        ("CONNECT contoso.azurecr.io:443 HTTP/2.0\r\n\r\n".into(), Wrong(Version)),
        ("CONNECT contoso.azurecr.io:443 HTTPS/1.1\r\n\r\n".into(), Wrong(RequestLine)),
        ("CONN\"ECT contoso.azurecr.io:443 HTTP/1.1\r\n\r\n".into(), Wrong(RequestLine)),
        (
            format!("CONNECT2 contoso.azurecr.io:443 HTTP/1.1\r\n{HOST}\r\n"),
            Wrong(Method(TargetForm::Other)),
        ),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".into(), Wrong(Method(TargetForm::Other))),
        (
            "POST http://contoso.azurecr.io/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                .into(),
            Wrong(Method(TargetForm::Http)),
        ),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".into(), Wrong(Method(TargetForm::Path))),
        ("PRI * HTTP/2.0\r\n\r\n".into(), Wrong(Http2)),
        ("EHLO example.com\r\n\r\n".into(), Wrong(RequestLine)),
        ("{\"json\":1}\r\n\r\n".into(), Wrong(RequestLine)),
    ]
}
