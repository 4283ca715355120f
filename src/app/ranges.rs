//! The cluster's address ranges must be nobody else's.

use ipnet::IpNet;

use crate::config::{Network, overlap};

/// A range of the cluster that overlaps another network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeClash {
    #[error("the range {range} is already used by the host ({taken}): choose another with {flag}")]
    Host { flag: &'static str, range: IpNet, taken: IpNet },
    #[error("the ranges {range} and {other} of the cluster overlap: choose another with {flag}")]
    Own { flag: &'static str, range: IpNet, other: IpNet },
}

/// Refuses ranges that overlap one another or one of the host's `taken` networks (its default routes left out).
pub fn check(network: &Network, taken: &[IpNet]) -> Result<(), RangeClash> {
    let ranges = network.ranges();
    for (i, (flag, range)) in ranges.into_iter().enumerate() {
        if let Some((_, other)) = ranges[..i].iter().find(|(_, other)| overlap(other, &range)) {
            return Err(RangeClash::Own { flag, range, other: *other });
        }
        let real = |taken: &&IpNet| taken.prefix_len() > 0 && overlap(taken, &range);
        if let Some(taken) = taken.iter().find(real) {
            return Err(RangeClash::Host { flag, range, taken: *taken });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_the_host_is_refused_with_the_flag_that_moves_ours() {
        let network = Network::default();
        assert_eq!(check(&network, &["0.0.0.0/0".parse().unwrap(), "192.168.1.0/24".parse().unwrap()]), Ok(()));
        let clash = check(&network, &["10.244.7.0/24".parse().unwrap()]).unwrap_err();
        assert!(clash.to_string().ends_with("choose another with --pod-cidr"), "{clash}");
        let wide = check(&network, &["10.0.0.0/8".parse().unwrap()]).unwrap_err();
        assert!(matches!(wide, RangeClash::Host { flag: "--service-cidr", .. }));
    }

    #[test]
    fn ranges_of_the_cluster_must_not_overlap() {
        let network = Network { lb_v4: "10.244.9.0/24".parse().unwrap(), ..Network::default() };
        assert!(matches!(check(&network, &[]), Err(RangeClash::Own { flag: "--lb-cidr", .. })));
    }
}
