//! Pods as real processes in real namespaces.
//!
//! The program is its own harness: it is also what the agent re-executes as a container's init.

mod containers;
#[path = "../common/harness.rs"]
mod harness;
mod images;
mod life;
mod pods;
mod probes;
mod sandbox;
mod volumes;
mod world;

use std::process::ExitCode;

use harness::scenarios;
use vipyard::node::init::container_init;

scenarios! {
    sandbox::device_has_addresses_and_routes,
    pods::nodes_are_registered_ready,
    pods::nodes_of_an_earlier_run_that_had_more_are_removed,
    pods::pod_runs_and_answers_over_its_address,
    pods::container_has_names_files_and_environment,
    pods::missing_program_is_a_start_error_and_crash_loops,
    pods::failing_container_restarts_with_back_off,
    pods::unknown_image_says_what_to_do,
    pods::graceful_delete_terminates_then_removes_the_object,
    pods::containers_are_asked_to_end_when_new_connections_go_elsewhere,
    pods::deaf_container_is_killed_after_the_grace_period,
    pods::shorter_grace_reaches_a_container_that_is_being_stopped,
    pods::vanished_object_kills_at_once_and_frees_the_address,
    pods::readiness_probe_decides_and_third_party_conditions_stay,
    pods::exec_and_liveness_probes_run_in_the_container,
    pods::init_containers_run_in_order_before_the_others,
    pods::host_network_pod_has_the_nodes_addresses,
    pods::pod_of_an_earlier_run_starts_anew_and_finished_ones_stay,
    pods::pod_that_the_api_does_not_have_is_ended,
    pods::killed_vipyard_leaves_no_process,
    volumes::config_maps_and_secrets_are_files_that_change_with_them,
    volumes::pods_labels_are_files_that_change_with_them,
    volumes::empty_dirs_are_shared_and_gone_with_the_pod,
    volumes::parts_of_volumes_are_mounted_and_read_only_is_kept,
    volumes::missing_volume_keeps_the_pod_waiting_until_it_comes,
    volumes::host_paths_are_checked,
    volumes::claim_is_a_folder_that_stays_until_it_is_deleted,
    volumes::volumes_of_other_types_are_refused_with_a_reason,
    images::program_of_the_map_runs_as_the_image_says,
    images::root_file_system_is_the_images_own_and_stays_as_it_is,
    images::unknown_image_starts_when_the_map_has_it,
    images::image_that_may_not_be_pulled_says_so,
    containers::users_groups_and_capabilities_are_as_asked,
    containers::read_only_root_leaves_volumes_writable,
    containers::root_user_is_refused_where_the_pod_forbids_it,
    containers::signals_mean_the_usual_whatever_vipyard_was_started_with,
    containers::sysctls_of_the_pods_network_are_set_and_others_refused,
    containers::shared_process_namespace_shows_all_and_reaps,
    containers::processes_of_a_shared_namespace_end_with_their_container,
    containers::what_can_not_be_given_is_told_once,
    containers::limits_that_can_not_be_kept_are_told_once_for_all,
    containers::resize_starts_a_container_anew_where_it_asks_for_that,
    containers::ephemeral_container_ends_at_once_and_says_why,
    containers::last_words_come_from_the_log_where_the_file_is_empty,
    life::post_start_hook_holds_the_container_back,
    life::failed_post_start_hook_ends_the_container,
    life::pre_stop_hook_runs_before_the_end_and_counts,
    life::ending_pod_keeps_its_network_px4,
    life::sidecars_start_first_and_end_last_px3,
    life::pod_past_its_deadline_fails,
    life::missing_reference_is_waited_for,
    life::readiness_probes_go_on_while_the_pod_ends_ps8,
    probes::https_probe_trusts_any_certificate_ps10,
    probes::grpc_probe_asks_for_the_service_ps10,
    probes::redirect_is_followed_on_the_same_host_alone_ps10,
    probes::startup_probe_holds_back_the_others_ps7,
    probes::failed_liveness_probe_kills_once_ps7,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((first, rest)) if first == vipyard::node::init::SUBCOMMAND => return container_init(rest),
        Some((first, [name, rest @ ..])) if first == vipyard::images::SUBCOMMAND => {
            return vipyard::images::main(name, rest);
        }
        Some((first, [])) if first == "hold" => return alone(pods::hold()),
        Some((first, [])) if first == "tell-signals" => return alone(containers::tell_signals()),
        _ => {}
    }
    harness::main(SCENARIOS, &arguments, harness::enter_namespaces)
}

/// What a scenario starts as a program of its own, in its namespaces.
fn alone(part: impl Future<Output = ()>) -> ExitCode {
    harness::block_on(part);
    ExitCode::SUCCESS
}
