//! Servers that answer in ways of their own: records in any order, no EDNS, too much for UDP.

use super::*;

/// A server that treats a question with EDNS in its own way, and answers others.
async fn without_edns(objection: Reply) -> Server {
    Server::start(move |asked| match asked.edns {
        true => objection.clone(),
        false => one_address(asked, 60),
    })
    .await
}

#[tokio::test]
async fn aliases_are_followed_in_any_order() {
    const NAMES: [&str; 5] = [
        "contoso.azurecr.io",
        "contoso.privatelink.azurecr.io",
        "eus.fe.azcr.io",
        "eus-acr-reg.trafficmanager.net",
        "r0318eus.eastus.cloudapp.azure.com",
    ];
    let records = || -> Vec<Record> {
        let links = NAMES.windows(2).map(|pair| alias(pair[0], 60, pair[1]));
        links.chain([address(NAMES[4], 60, ip("20.1.2.3"))]).collect()
    };
    for rotation in 0..5 {
        for is_reversed in [false, true] {
            let mut records = records();
            records.rotate_left(rotation);
            if is_reversed {
                records.reverse();
            }
            let server = Server::start(move |asked| match asked.family {
                RecordType::A => Reply::Records(records.clone()),
                _ => Reply::Nothing(60),
            })
            .await;
            let set = set_with(&[&server]);
            let resolver = Resolver::new(&set.rules().dns_servers);
            let found = found(&resolver, &set, "contoso.azurecr.io").await;
            assert_eq!(found.unwrap(), ["20.1.2.3"], "rotated by {rotation}, {is_reversed}");
            assert_eq!(server.asked().len(), 2);
        }
    }
}

#[tokio::test]
async fn a_server_without_edns_is_asked_without_it_and_remembered() {
    use ResponseCode::{BADVERS, FormErr, NotImp, ServFail};
    let objections = [
        Reply::Code(FormErr),
        Reply::Header(FormErr),
        Reply::Code(NotImp),
        Reply::Header(NotImp),
        Reply::Code(BADVERS),
        Reply::Code(ServFail),
        Reply::Header(ServFail),
        Reply::Silence,
    ];
    for objection in objections {
        let server = without_edns(objection.clone()).await;
        let set = set_with(&[&server]);
        let resolver = Resolver::new(&set.rules().dns_servers);
        let first = found(&resolver, &set, "contoso.azurecr.io").await;
        assert_eq!(first.unwrap(), ["20.1.2.3"], "{objection:?}");
        assert!(server.asked().iter().any(|asked| asked.edns), "{objection:?}");
        let second = found(&resolver, &set, "fabrikam.azurecr.io").await;
        assert_eq!(second.unwrap(), ["20.1.2.3"], "{objection:?}");
        let asked = server.asked();
        assert!(asked.iter().all(|asked| !asked.edns), "{objection:?}: {asked:?}");
        pass(60 * 60 + 1).await;
        found(&resolver, &set, "wingtip.azurecr.io").await.unwrap();
        assert!(server.asked().iter().any(|asked| asked.edns), "not for ever: {objection:?}");
    }
}

#[tokio::test]
async fn a_server_without_edns_is_asked_without_it_over_tcp_too() {
    let server = Server::start(|asked| match (asked.over, asked.edns) {
        (Over::Udp, _) => Reply::Truncated,
        (Over::Tcp, true) => Reply::Header(ResponseCode::FormErr),
        (Over::Tcp, false) => one_address(asked, 60),
    })
    .await;
    let set = set_with(&[&server]);
    let resolver = Resolver::new(&set.rules().dns_servers);
    assert_eq!(found(&resolver, &set, "contoso.azurecr.io").await.unwrap(), ["20.1.2.3"]);
}

#[tokio::test]
async fn what_answers_is_never_said_not_to_answer() {
    use ResponseCode::{BADVERS, FormErr, NotAuth, NotImp, Refused, ServFail};
    let replies = [
        Reply::Code(FormErr),
        Reply::Header(FormErr),
        Reply::Code(NotImp),
        Reply::Code(BADVERS),
        Reply::Code(ServFail),
        Reply::Header(Refused),
        Reply::Code(NotAuth),
        Reply::Truncated,
        // Half a header's worth of records, and flags of an answer.
        Reply::Bytes(b"\x81\x80\0\x01\0\x01\0\0\0\0\x07contoso"),
        Reply::Bytes(b"\x81\x80\xff\xff\xff\xff\xff\xff\xff\xff"),
    ];
    for reply in replies {
        let scripted = reply.clone();
        let server = Server::start(move |_| scripted.clone()).await;
        let set = set_with(&[&server]);
        let resolver = Resolver::new(&set.rules().dns_servers);
        let ended = found(&resolver, &set, "contoso.azurecr.io").await;
        assert_eq!(ended.unwrap_err().cause, Cause::LookupFailed, "{reply:?}");
    }
    // One family is answered with an error, and the other not at all; UDP is answered, TCP is not.
    let halves: [fn(&Asked) -> Reply; 2] = [
        |asked| match asked.family {
            RecordType::A => Reply::Silence,
            _ => Reply::Code(Refused),
        },
        |asked| match asked.over {
            Over::Udp => Reply::Truncated,
            Over::Tcp => Reply::Silence,
        },
    ];
    for half in halves {
        let server = Server::start(half).await;
        let set = set_with(&[&server]);
        let resolver = Resolver::new(&set.rules().dns_servers);
        let ended = found(&resolver, &set, "contoso.azurecr.io").await;
        assert_eq!(ended.unwrap_err().cause, Cause::LookupFailed);
    }
}

/// So large a datagram may have come in fragments, which can be forged.
#[tokio::test]
async fn an_answer_too_large_for_udp_is_asked_for_over_tcp_though_it_does_not_say_so() {
    let server = Server::start(|asked| match asked.family {
        RecordType::A => Reply::Records(thousand(&asked.name)),
        _ => Reply::Nothing(60),
    })
    .await;
    let set = set_with(&[&server]);
    let resolver = Resolver::new(&set.rules().dns_servers);
    let found = found(&resolver, &set, "contoso.azurecr.io").await.unwrap();
    assert_eq!(found.len(), MOST_ADDRESSES / 2);
    let asked = server.asked();
    let over = |over| asked.iter().filter(|asked| asked.over == over).count();
    assert_eq!((over(Over::Udp), over(Over::Tcp)), (2, 1), "{asked:?}");
}
