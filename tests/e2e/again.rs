//! The promises of `docs/threat-model.md` hold behind a parent proxy with `connect = "address"`: the
//! same tests, in which each gate has such a parent.

use crate::harness::behind_a_parent;

macro_rules! again {
    ($($module:ident::$test:ident,)*) => {$(
        #[test]
        fn $test() {
            behind_a_parent(crate::$module::$test);
        }
    )*};
}

again! {
    refuse::blobs_redirected_to_a_storage_account_are_refused_with_the_cause,
    refuse::a_push_to_another_registry_is_refused,
    refuse::nothing_reaches_a_storage_account,
    refuse::the_last_line_of_every_client_names_the_host_and_the_reason,
    tls::legal_clients_of_every_make_pass,
    tls::go_pulls_from_a_registry_of_tls_1_2,
    tls::what_is_not_a_hello_for_the_allowed_host_never_reaches_it,
    tls::a_renegotiation_cuts_the_tunnel,
    second_hello::a_second_hello_with_another_name_is_cut,
    inspect::what_the_rules_do_not_allow_reaches_no_registry,
    inspect::a_server_with_a_wrong_certificate_gets_no_request,
    inspect_hello::a_second_hello_that_lies_is_cut_in_an_inspected_tunnel,
    inspect_hostile::smuggled_requests_in_a_tunnel_reach_no_registry,
    pull::curl_follows_the_redirect_through_the_gate,
    dns::only_allowed_names_are_asked_and_only_absolute,
    budget::a_push_to_a_data_endpoint_is_cut_unless_the_registry_is_connected,
    revoke::a_streaming_pull_ends_when_its_registry_is_removed,
    limits::a_tunnel_ends_with_its_lifetime,
    mutual::a_list_that_revokes_a_certificate_ends_its_tunnels,
    users::a_password_opens_what_its_user_may_use,
    users::a_reload_that_drops_a_user_ends_its_tunnels,
    balancer::behind_haproxy_the_client_keeps_its_address,
    gateway::forbidden_traffic_reaches_no_host,
    gateway::an_allowed_name_at_the_attackers_address_is_the_registrys_all_the_same,
}
