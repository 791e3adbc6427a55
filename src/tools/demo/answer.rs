//! The HTTP answers of the embedded registry: tokens, manifests and redirects on the login server,
//! blobs on the data endpoint. Pure: requests in, responses out.

use super::image::Image;
use super::{DATA, IMAGE, LATER_DATA, LATER_LOGIN, SMALL_IMAGE, STORAGE, TAG};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION, WWW_AUTHENTICATE};
use hyper::http::HeaderName;
use hyper::{Method, Request, Response, StatusCode};
use oci_client::manifest::OCI_IMAGE_MEDIA_TYPE;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

/// The user that can pull. The password is not a secret: the registry runs on loopback for a
/// minute.
pub(super) const USER: &str = "pull-only";
/// The password of that user.
pub(super) const PASSWORD: &str = "demo";
/// Both, in Base64, as in RFC 7617.
const CREDENTIALS: &str = "Basic cHVsbC1vbmx5OmRlbW8=";

type RegistryResponse = Response<Full<Bytes>>;

/// The endpoint of the registry that a request arrived at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DemoEndpoint {
    /// The login server: authentication and content discovery.
    Login,
    /// The data endpoint: blobs.
    Data,
}

/// Whether the registry has dedicated data endpoints enabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataEndpoints {
    /// Blob requests are redirected to the registry's own data endpoint.
    Dedicated,
    /// They are redirected to a storage account, as before the feature is enabled.
    Shared,
}

/// The content of the registry.
#[derive(Debug)]
pub(super) struct Shelf {
    /// The large image.
    pub image: Image,
    /// The small one.
    pub small: Image,
    /// The only valid token.
    pub token: String,
    /// The signature in redirects, which the data endpoint requires.
    pub signature: String,
    /// The address of the data endpoint, for clients that connect by address and cannot resolve
    /// names.
    pub data: SocketAddr,
    /// The target of redirects.
    pub data_endpoints: Mutex<DataEndpoints>,
}

impl Shelf {
    /// Answers one request at `endpoint`.
    pub(super) fn answer<B>(
        &self,
        endpoint: DemoEndpoint,
        request: &Request<B>,
    ) -> RegistryResponse {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return fault(
                StatusCode::METHOD_NOT_ALLOWED,
                "UNSUPPORTED",
                "this registry is read-only",
            );
        }
        match endpoint {
            DemoEndpoint::Login => self.login(request),
            DemoEndpoint::Data => self.data(request),
        }
    }

    fn login<B>(&self, request: &Request<B>) -> RegistryResponse {
        let host = header(request, &HOST);
        let path = request.uri().path();
        if path == "/oauth2/token" {
            return self.issue(request);
        }
        if header(request, &AUTHORIZATION).strip_prefix("Bearer ") != Some(&self.token) {
            let challenge =
                format!(r#"Bearer realm="https://{host}/oauth2/token",service="{host}""#);
            let answer = fault(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "authentication required");
            return with(answer, WWW_AUTHENTICATE, challenge);
        }
        if path == "/v2/" {
            return json(StatusCode::OK, "{}");
        }
        match Wanted::parse(path) {
            Some(Wanted::Manifest { repository, reference }) => {
                self.manifest(repository, reference)
            }
            Some(Wanted::Blob { repository, digest }) => self.redirect(host, repository, digest),
            None => fault(StatusCode::NOT_FOUND, "UNSUPPORTED", "no such path"),
        }
    }

    /// Returns the token for the user's credentials.
    fn issue<B>(&self, request: &Request<B>) -> RegistryResponse {
        if header(request, &AUTHORIZATION) != CREDENTIALS {
            return fault(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "wrong user or password");
        }
        json(StatusCode::OK, serde_json::json!({ "access_token": self.token }).to_string())
    }

    fn manifest(&self, repository: &str, reference: &str) -> RegistryResponse {
        let found = self
            .image(repository)
            .map(|image| &image.manifest)
            .filter(|manifest| reference == TAG || reference == manifest.digest);
        let Some(manifest) = found else {
            return fault(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "no such manifest");
        };
        let answer = Response::new(Full::new(manifest.bytes.clone()));
        let answer = with(answer, CONTENT_TYPE, OCI_IMAGE_MEDIA_TYPE.to_owned());
        let digest = HeaderName::from_static("docker-content-digest");
        with(answer, digest, manifest.digest.clone())
    }

    /// Redirects the client to the blob, with a signature in the URL instead of the token.
    fn redirect(&self, host: &str, repository: &str, digest: &str) -> RegistryResponse {
        if self.image(repository).and_then(|image| image.blob(digest)).is_none() {
            return fault(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "no such blob");
        }
        let by_address = host.parse::<SocketAddr>().is_ok();
        let data_endpoints = *self.data_endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let to = match data_endpoints {
            _ if by_address => self.data.to_string(),
            DataEndpoints::Shared => STORAGE.to_owned(),
            DataEndpoints::Dedicated if host == LATER_LOGIN => LATER_DATA.to_owned(),
            DataEndpoints::Dedicated => DATA.to_owned(),
        };
        let hex = digest.trim_start_matches("sha256:");
        let location = format!(
            "https://{to}/c0ffee/docker/registry/v2/blobs/sha256/{}/{hex}/data\
             ?se=2030-01-01T00%3A20%3A00Z&sig={}&sp=r&spr=https&sr=b&sv=2018-03-28",
            hex.get(..2).unwrap_or_default(),
            self.signature,
        );
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        with(answer, LOCATION, location)
    }

    fn data<B>(&self, request: &Request<B>) -> RegistryResponse {
        // Azure storage rejects a request with both a signature and an Authorization header, which
        // reveals clients that send their token to another host.
        if request.headers().contains_key(AUTHORIZATION) {
            return fault(StatusCode::BAD_REQUEST, "DENIED", "a token does not belong here");
        }
        let signature = format!("sig={}", self.signature);
        if !request.uri().query().unwrap_or_default().split('&').any(|part| part == signature) {
            return fault(StatusCode::FORBIDDEN, "DENIED", "the link's signature is wrong");
        }
        let hex = request.uri().path().rsplit('/').nth(1).unwrap_or_default();
        let digest = format!("sha256:{hex}");
        match [&self.image, &self.small].iter().find_map(|image| image.blob(&digest)) {
            Some(blob) => {
                let answer = Response::new(Full::new(blob.bytes.clone()));
                with(answer, CONTENT_TYPE, "application/octet-stream".to_owned())
            }
            None => fault(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "no such blob"),
        }
    }

    fn image(&self, repository: &str) -> Option<&Image> {
        match repository {
            IMAGE => Some(&self.image),
            SMALL_IMAGE => Some(&self.small),
            _ => None,
        }
    }
}

/// What a path under `/v2/` requests.
enum Wanted<'a> {
    Manifest { repository: &'a str, reference: &'a str },
    Blob { repository: &'a str, digest: &'a str },
}

impl<'a> Wanted<'a> {
    fn parse(path: &'a str) -> Option<Self> {
        let (head, last) = path.strip_prefix("/v2/")?.rsplit_once('/')?;
        match head.rsplit_once('/')? {
            (repository, "manifests") => Some(Self::Manifest { repository, reference: last }),
            (repository, "blobs") => Some(Self::Blob { repository, digest: last }),
            _ => None,
        }
    }
}

fn header<'a, B>(request: &'a Request<B>, name: &HeaderName) -> &'a str {
    request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn with(mut answer: RegistryResponse, name: HeaderName, value: String) -> RegistryResponse {
    // The values are ours, except Host, which was already a valid header value.
    if let Ok(value) = value.try_into() {
        answer.headers_mut().insert(name, value);
    }
    answer
}

fn json(status: StatusCode, body: impl Into<Bytes>) -> RegistryResponse {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    with(answer, CONTENT_TYPE, "application/json".to_owned())
}

/// An error in the format of the OCI distribution specification.
fn fault(status: StatusCode, code: &str, message: &str) -> RegistryResponse {
    let body = serde_json::json!({ "errors": [{ "code": code, "message": message }] });
    json(status, body.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shelf() -> Shelf {
        Shelf {
            image: Image::generate(1, 1000).await.unwrap(),
            small: Image::generate(2, 10).await.unwrap(),
            token: "the-token".to_owned(),
            signature: "the-signature".to_owned(),
            data: "127.0.0.1:8443".parse().unwrap(),
            data_endpoints: Mutex::new(DataEndpoints::Dedicated),
        }
    }

    fn ask(
        shelf: &Shelf,
        endpoint: DemoEndpoint,
        uri: &str,
        headers: &[(&str, &str)],
    ) -> RegistryResponse {
        let mut request = Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        shelf.answer(endpoint, &request.body(()).unwrap())
    }

    fn location(answer: &RegistryResponse) -> &str {
        answer.headers().get(LOCATION).map_or("", |value| value.to_str().unwrap())
    }

    #[tokio::test]
    async fn strangers_are_challenged_at_the_host_they_asked() {
        let shelf = shelf().await;
        for token in
            [None, Some(("authorization", "Bearer other")), Some(("authorization", CREDENTIALS))]
        {
            let headers: Vec<_> =
                [Some(("host", "contoso.azurecr.io")), token].into_iter().flatten().collect();
            for path in ["/v2/", "/v2/team/app/manifests/1.0", "/v2/team/app/blobs/sha256:00"] {
                let answer = ask(&shelf, DemoEndpoint::Login, path, &headers);
                assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
                assert_eq!(
                    answer.headers().get(WWW_AUTHENTICATE).unwrap(),
                    r#"Bearer realm="https://contoso.azurecr.io/oauth2/token",service="contoso.azurecr.io""#
                );
            }
        }
    }

    #[tokio::test]
    async fn tokens_are_given_for_credentials_only() {
        let shelf = shelf().await;
        let token =
            |headers| ask(&shelf, DemoEndpoint::Login, "/oauth2/token?scope=x", headers).status();
        assert_eq!(token(&[("authorization", CREDENTIALS)]), StatusCode::OK);
        assert_eq!(token(&[("authorization", "Basic YTpi")]), StatusCode::UNAUTHORIZED);
        assert_eq!(token(&[]), StatusCode::UNAUTHORIZED);
    }

    #[tokio::test]
    async fn the_login_server_answers_what_an_image_consists_of() {
        let shelf = shelf().await;
        let manifest = format!("/v2/team/app/manifests/{}", shelf.image.manifest.digest);
        for (path, status) in [
            ("/v2/", StatusCode::OK),
            ("/v2/team/app/manifests/1.0", StatusCode::OK),
            (manifest.as_str(), StatusCode::OK),
            ("/v2/tools/hello/manifests/1.0", StatusCode::OK),
            ("/v2/team/app/manifests/2.0", StatusCode::NOT_FOUND),
            ("/v2/nobody/manifests/1.0", StatusCode::NOT_FOUND),
            ("/v2/team/app/blobs/sha256:00", StatusCode::NOT_FOUND),
            ("/v2/team/app/tags/list", StatusCode::NOT_FOUND),
            ("/", StatusCode::NOT_FOUND),
        ] {
            let answer =
                ask(&shelf, DemoEndpoint::Login, path, &[("authorization", "Bearer the-token")]);
            assert_eq!(answer.status(), status, "{path}");
        }
    }

    #[tokio::test]
    async fn blobs_are_elsewhere() {
        let shelf = shelf().await;
        for (host, data_endpoints, elsewhere) in [
            ("contoso.azurecr.io", DataEndpoints::Dedicated, "contoso.eastus.data.azurecr.io"),
            ("contoso.azurecr.io", DataEndpoints::Shared, "eusmanaged123.blob.core.windows.net"),
            (
                "fabrikam.azurecr.io",
                DataEndpoints::Dedicated,
                "fabrikam.westeurope.data.azurecr.io",
            ),
            ("127.0.0.1:5000", DataEndpoints::Dedicated, "127.0.0.1:8443"),
        ] {
            *shelf.data_endpoints.lock().unwrap() = data_endpoints;
            let headers = [("host", host), ("authorization", "Bearer the-token")];
            for blob in shelf.image.layers.iter().chain([&shelf.image.config]) {
                let path = format!("/v2/team/app/blobs/{}", blob.digest);
                let answer = ask(&shelf, DemoEndpoint::Login, &path, &headers);
                assert_eq!(answer.status(), StatusCode::TEMPORARY_REDIRECT);
                let link = location(&answer).strip_prefix("https://").unwrap();
                let (to, path) = link.split_at(link.find('/').unwrap());
                assert_eq!(to, elsewhere);
                assert_eq!(ask(&shelf, DemoEndpoint::Data, path, &[]).status(), StatusCode::OK);
            }
        }
    }

    #[tokio::test]
    async fn data_endpoints_want_the_signature_and_no_token() {
        let shelf = shelf().await;
        let hex = shelf.small.config.digest.strip_prefix("sha256:").unwrap();
        let path = format!("/c0ffee/docker/registry/v2/blobs/sha256/00/{hex}/data");
        let signed = format!("{path}?sp=r&sig=the-signature");
        let token = [("authorization", "Bearer the-token")];
        assert_eq!(ask(&shelf, DemoEndpoint::Data, &signed, &[]).status(), StatusCode::OK);
        assert_eq!(
            ask(&shelf, DemoEndpoint::Data, &signed, &token).status(),
            StatusCode::BAD_REQUEST
        );
        assert_eq!(ask(&shelf, DemoEndpoint::Data, &path, &[]).status(), StatusCode::FORBIDDEN);
        let wrong = format!("{path}?sig=the-signatur");
        assert_eq!(ask(&shelf, DemoEndpoint::Data, &wrong, &[]).status(), StatusCode::FORBIDDEN);
    }

    #[tokio::test]
    async fn nothing_is_written() {
        let shelf = shelf().await;
        for endpoint in [DemoEndpoint::Login, DemoEndpoint::Data] {
            let request = Request::put("/v2/team/app/manifests/1.0").body(()).unwrap();
            assert_eq!(shelf.answer(endpoint, &request).status(), StatusCode::METHOD_NOT_ALLOWED);
        }
    }
}
