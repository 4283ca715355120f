//! The real `vipyard` binary with real namespaces, devices, processes and packets.
//!
//! The program is its own harness, because it must be in a user namespace and in a network namespace before any thread
//! starts: then it needs no root, and no packet can leave the machine. Each scenario has a network namespace of its own,
//! in which its clusters listen on their default ports.
//!
//! Where the kernel forbids this, or a program is missing that a scenario is about, the scenario is ignored and the
//! reason is printed.

mod access;
mod barrier;
mod claims;
mod client;
mod cluster;
mod dataplane;
mod dns;
mod egress;
mod examples;
mod explain;
#[path = "../common/harness.rs"]
mod harness;
mod host_ports;
mod inside;
mod kube_rs;
#[path = "../common/kubeconfig.rs"]
mod kubeconfig;
mod kubectl;
mod lifecycle;
mod needs;
mod outside;
mod partition;
mod pods;
mod processes;
mod readiness;
mod refusals;
mod rolling;
mod services;
mod soak;
mod streams;
mod workloads;

use std::process::ExitCode;

use harness::scenarios;

// The longest first, so that they do not run alone at the end.
scenarios! {
    lifecycle::killed_cluster_comes_back_with_every_acknowledged_object,
    soak::random_lives_leave_nothing_behind,
    dataplane::affinity::connections_renew_the_memory_and_idleness_ends_it,
    dataplane::virtual_ips::source_ranges_filter_load_balancer_vips_only,
    kubectl::objects_are_applied_shown_and_described: kubectl,
    kubectl::objects_are_labelled_patched_and_replaced: kubectl,
    kubectl::waits_and_watches_end_with_what_they_wait_for: kubectl,
    kubectl::deployments_are_scaled_exposed_and_get_new_images: kubectl,
    kubectl::deletes_cascade_as_asked: kubectl,
    kubectl::kinds_are_listed_and_explained: kubectl,
    kubectl::kinds_of_a_definition_are_used_like_others: kubectl,
    kubectl::typed_commands_create_every_kind_that_is_served: kubectl,
    kubectl::objects_are_created_by_command_and_printed_in_every_form: kubectl,
    kubectl::server_side_apply_owns_fields_and_refuses_to_take_others: kubectl,
    kubectl::apply_prunes_and_diff_tells_what_would_change: kubectl,
    kubectl::who_asks_is_told_who_it_is_and_what_it_may: kubectl,
    kubectl::editor_changes_the_object: kubectl,
    kube_rs::reflectors_list_again_after_410,
    kube_rs::objects_are_written_in_every_way,
    kube_rs::everything_that_discovery_names_can_be_listed,
    kube_rs::server_side_apply_owns_fields,
    claims::claim_is_bound_and_keeps_its_files_until_it_is_deleted,
    host_ports::host_port_answers_on_its_node_alone_p6,
    pods::failing_container_backs_off_and_keeps_its_last_log,
    streams::exec_gives_output_input_and_exact_exit_codes: kubectl,
    streams::terminals_have_a_size_and_are_hung_up,
    streams::stalled_client_stops_the_process_and_a_gone_one_ends_it: kubectl,
    streams::attach_shares_a_containers_streams: kubectl,
    streams::ports_of_pods_and_services_are_forwarded: kubectl,
    streams::proxies_lead_to_pods_services_and_nodes,
    streams::files_are_copied_both_ways: kubectl,
    rolling::replaced_pods_cost_no_request,
    rolling::restarted_deployment_costs_no_request,
    examples::guestbook_writes_to_its_leader_and_reads_from_followers: guestbook,
    examples::redis_members_find_their_primary_and_replicate: redis,
    examples::web_server_serves_its_config_map: lighttpd,
    workloads::stopped_node_loses_its_pods_and_comes_back,
    workloads::drained_node_gives_its_pods_to_others: kubectl,
    workloads::deployment_is_rolled_out_undone_restarted_and_paused: kubectl,
    workloads::stateful_set_has_names_and_an_order,
    workloads::daemon_set_runs_on_each_node,
    workloads::indexed_job_runs_each_index_to_its_end,
    barrier::next_packet_follows_the_slice_that_was_written,
    barrier::next_packet_and_next_answer_follow_what_controllers_wrote,
    barrier::command_returns_when_the_write_is_in_and_refuses_what_nobody_wrote,
    readiness::no_request_reaches_a_pod_that_left_the_slice,
    readiness::pod_that_vanishes_at_once_gets_no_request_after_it_left_the_slice,
    readiness::unready_pod_gets_no_new_connection_and_comes_back,
    readiness::exec_probe_decides,
    services::cluster_ip_spreads_tcp_and_udp_over_all_ready_pods_of_both_families,
    services::pods_reach_one_another_by_address_with_their_own_source_x10,
    services::pod_reaches_itself_through_its_service_x9,
    services::service_without_endpoint_refuses_at_once_n1_n2,
    services::node_port_answers_on_every_node_and_nothing_listens_p1_p3_p5,
    services::address_of_a_recreated_service_leads_to_its_new_pods,
    services::ends_of_a_pods_connections_reach_its_peers,
    services::established_connection_stays_with_its_pod_c1,
    services::large_transfer_through_a_vip_arrives_whole,
    services::datagrams_from_one_port_go_on_to_another_pod_when_theirs_is_gone,
    dataplane::which_slices::services_for_other_proxies_and_external_names_are_not_captured_s1_s2_s14,
    dataplane::which_slices::headless_service_leaves_pods_addresses_alone,
    dataplane::which_slices::slices_belong_to_a_service_by_label_and_family_s3_s4_s5,
    dataplane::which_slices::slice_ports_are_found_by_name_and_protocol,
    dataplane::which_slices::entries_of_one_pod_are_merged,
    dataplane::which_slices::absent_conditions_and_node_names_have_their_meaning,
    dataplane::endpoint_choice::ready_endpoints_come_before_those_that_terminate_e1_e3_e4,
    dataplane::endpoint_choice::unready_pod_is_reached_where_the_service_publishes_it,
    dataplane::endpoint_choice::local_list_falls_back_by_itself_e2,
    dataplane::endpoint_choice::hints_do_not_narrow_local_lists_and_last_resorts_e5,
    dataplane::endpoint_choice::external_exposure_needs_the_whole_clusters_endpoints_e6,
    dataplane::endpoint_choice::every_endpoint_is_chosen_about_equally_often_e8,
    dataplane::internal_policy::internal_policy_local_keeps_cluster_ip_traffic_on_its_node,
    dataplane::external_policy::external_policy_cluster_masquerades_every_client_x1_x8,
    dataplane::external_policy::external_policy_local_keeps_the_source_and_uses_local_endpoints_x2_x5_x6_x7,
    dataplane::external_policy::own_pods_and_processes_use_the_whole_cluster_x3_x4,
    dataplane::external_policy::endpoint_reaches_itself_through_every_door_x9,
    dataplane::external_policy::node_reaches_pods_with_its_own_address_x10,
    dataplane::external_policy::external_ip_of_a_cluster_ip_service_honours_the_policy_x11,
    dataplane::external_policy::policy_change_leaves_established_connections_alone_x12,
    dataplane::hints::hints_choose_by_node_before_zone,
    dataplane::hints::zone_of_the_node_may_change_or_be_unknown_t6_t8,
    dataplane::hints::preferred_zone_is_kept_from_service_to_packet,
    dataplane::no_endpoints::service_without_endpoint_refuses_at_every_door,
    dataplane::no_endpoints::only_what_belongs_to_a_service_is_captured,
    dataplane::no_endpoints::established_connections_survive_the_loss_of_their_rules_n1,
    dataplane::virtual_ips::external_ips_are_captured_everywhere_v1,
    dataplane::virtual_ips::ingress_entries_are_captured_by_mode_and_family,
    dataplane::node_ports::node_ports_are_on_the_nodes_addresses_of_both_families,
    dataplane::node_ports::node_port_of_another_node_is_decided_there_p3,
    dataplane::node_ports::protocols_of_one_node_port_are_apart_p4,
    dataplane::node_ports::ports_of_the_range_that_no_service_has_are_the_nodes_own,
    dataplane::affinity::client_keeps_its_pod_at_all_doors_of_a_port,
    dataplane::affinity::each_port_has_its_own_memory_a1,
    dataplane::affinity::remembered_pod_must_be_eligible,
    dataplane::affinity::affinity_is_switched_on_and_off_at_once_a7_a8,
    dataplane::flows::clients_of_one_node_with_one_source_port_keep_apart,
    dataplane::flows::datagrams_follow_when_their_pod_serves_no_more_c2_c8,
    dataplane::flows::flows_stay_while_nothing_serves_and_when_the_service_is_gone_c3_c6,
    dataplane::flows::first_endpoint_takes_over_datagrams_from_a_port_that_was_refused_c4,
    dataplane::flows::changed_target_port_is_another_backend_c5,
    dataplane::flows::established_connection_stays_while_its_pod_terminates_c1,
    dataplane::flows::invalid_segments_neither_arrive_untranslated_nor_end_connections_c7,
    dataplane::flows::fragments_pass_through_a_vip_both_ways_c9: ip,
    dataplane::flows::flood_of_syns_from_one_pod_leaves_the_others_their_connections,
    dataplane::flows::datagrams_that_share_a_frame_arrive_each_whole_and_in_order_c9,
    dataplane::flows::backends_icmp_errors_reach_the_client_c10,
    dataplane::families::families_do_not_mix,
    dataplane::families::sctp_is_accepted_and_app_protocol_changes_nothing,
    outside::host_dials_services_nodes_pods_and_dns_x1_x8,
    outside::policy_local_keeps_the_hosts_address_and_health_ports_tell_where_to_send_x2_h1_h4,
    outside::proxy_tells_its_health_on_every_node_h5,
    outside::host_access_is_refused_where_it_is_not_allowed: unshare,
    outside::host_access_no_touches_nothing,
    outside::host_has_routes_to_service_cidrs_while_they_exist,
    outside::reach_prints_addresses_that_answer,
    outside::services_are_at_the_loopback_of_an_ordinary_user: unshare,
    egress::pods_reach_the_world_by_tcp_and_udp,
    egress::what_the_world_refuses_looks_refused_to_the_pod,
    egress::service_of_an_endpoint_outside_leads_there,
    egress::silent_addresses_of_one_pod_do_not_stop_another,
    egress::echo_requests_leave_where_the_user_may_send_them,
    egress::pods_of_an_ordinary_user_reach_the_world: unshare,
    explain::explanations_and_real_packets_agree,
    explain::flow_log_is_followed_from_the_first_packet_to_the_last,
    explain::tutorial_finds_five_faults: kubectl,
    dns::records::names_of_services_and_pods_resolve,
    dns::records::headless_service_resolves_to_its_ready_pods: dig,
    dns::records::records_of_every_form_are_seen_by_dig_d1_d2_d3_d4_d5_d9: dig,
    dns::records::reverse_names_of_a_further_service_cidr_are_the_clusters_d4_sc3: dig,
    dns::clients::resolv_conf_follows_policy_and_config_nm4_nm5_nm6,
    dns::clients::getaddrinfo_of_musl_agrees: musl,
    dns::clients::getaddrinfo_of_glibc_agrees: cc,
    dns::clients::nslookup_of_busybox_agrees: busybox,
    dns::host::host_asks_cluster_dns_at_its_loopback,
    dns::forwarding::names_outside_go_to_the_resolvers_of_the_flags,
    dns::forwarding::stub_domain_is_asked_of_a_service,
    dns::host::command_shows_the_walk_and_the_objects_behind_the_answer,
    dns::host::questions_are_followed_with_their_pods_and_objects,
    pods::api_answers_inside_the_cluster,
    access::pod_reaches_the_api_with_its_token_and_ca: curl,
    access::token_in_a_pod_is_read_only_and_for_this_pod,
    access::backup_of_a_running_cluster_becomes_the_same_cluster,
    access::kubectl_asks_who_it_is_and_makes_tokens: kubectl,
    pods::services_are_in_the_environment_ev1_ev3,
    pods::restart_policy_decides_the_phase,
    pods::unknown_image_says_what_to_do_and_breaks_nothing_else,
    pods::missing_program_is_a_start_error,
    pods::host_network_pod_has_the_nodes_address,
    pods::echo_requests_are_answered_between_pods,
    lifecycle::terminated_cluster_exits_0_and_leaves_nothing,
    lifecycle::second_signal_ends_at_once_and_leaves_nothing,
    lifecycle::cluster_in_memory_is_forgotten,
    lifecycle::detached_cluster_is_ready_when_up_returns_and_ends_with_down,
    lifecycle::ordinary_user_runs_a_cluster: unshare,
    refusals::second_cluster_of_a_data_directory_is_refused,
    refusals::port_in_use_is_named_with_its_flag,
    refusals::range_of_the_host_is_named_with_the_flag_that_moves_ours,
    refusals::kubeconfig_of_other_clusters_is_left_alone,
    refusals::bad_usage_exits_64,
    refusals::newer_database_is_left_alone,
    refusals::missing_tun_device_is_one_clear_line: unshare,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    harness::main(SCENARIOS, &arguments, needs::enter)
}
