//! Traffic interception rules of a pod (nftables or iptables-restore), from settings to an applied rule set
