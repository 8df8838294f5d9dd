//! Socket options as configured: those with a safe name. Any other is refused, for an option that silently has no
//! effect is worse than none.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// An option and when it is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOption {
    /// When.
    pub moment: Moment,
    /// Which, and its value.
    pub setting: Setting,
}

/// When an option is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before the socket is bound.
    Created,
    /// When it is bound.
    Bound,
    /// When it listens.
    Listening,
}

/// An option with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// `SO_KEEPALIVE`.
    KeepAlive(bool),
    /// `SO_REUSEPORT`.
    ReusePort(bool),
    /// `SO_RCVBUF`, bytes.
    ReceiveBuffer(usize),
    /// `SO_SNDBUF`, bytes.
    SendBuffer(usize),
    /// `SO_MARK`.
    Mark(u32),
    /// `TCP_NODELAY`.
    NoDelay(bool),
    /// `TCP_KEEPIDLE`.
    KeepIdle(Duration),
    /// `TCP_KEEPINTVL`.
    KeepInterval(Duration),
    /// `TCP_KEEPCNT`.
    KeepCount(u32),
    /// `TCP_USER_TIMEOUT`.
    UserTimeout(Duration),
    /// `TCP_CONGESTION`.
    Congestion(Vec<u8>),
    /// `IP_TRANSPARENT`.
    Transparent(bool),
    /// `IP_FREEBIND`.
    Freebind(bool),
    /// `IP_TOS`.
    TypeOfService(u32),
    /// `IPV6_TCLASS`.
    TrafficClass(u32),
}

/// Whether a socket is of this family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Setting {
    /// The option of Linux' level and name, if it is one of ours. Numbers are those of `asm-generic/socket.h` and
    /// `linux/{in,in6,tcp}.h`.
    pub fn of(level: i64, name: i64, value: &Value) -> Option<Setting> {
        let number = match value {
            Value::Number(number) => u32::try_from(*number).ok(),
            Value::Bytes(_) => None,
        };
        let flag = number.map(|number| number != 0);
        let seconds = || number.map(|number| Duration::from_secs(number.into()));
        Some(match (level, name) {
            (1, 7) => Setting::SendBuffer(usize::try_from(number?).ok()?),
            (1, 8) => Setting::ReceiveBuffer(usize::try_from(number?).ok()?),
            (1, 9) => Setting::KeepAlive(flag?),
            (1, 15) => Setting::ReusePort(flag?),
            (1, 36) => Setting::Mark(number?),
            (6, 1) => Setting::NoDelay(flag?),
            (6, 4) => Setting::KeepIdle(seconds()?),
            (6, 5) => Setting::KeepInterval(seconds()?),
            (6, 6) => Setting::KeepCount(number?),
            (6, 18) => Setting::UserTimeout(Duration::from_millis(number?.into())),
            (6, 13) => match value {
                Value::Bytes(name) => Setting::Congestion(name.clone()),
                Value::Number(_) => return None,
            },
            (0, 1) => Setting::TypeOfService(number?),
            (0, 15) => Setting::Freebind(flag?),
            (0, 19) => Setting::Transparent(flag?),
            (41, 67) => Setting::TrafficClass(number?),
            _ => return None,
        })
    }

    /// Sets it.
    pub fn set(&self, socket: &SockRef<'_>, family: Family) -> io::Result<()> {
        let keepalive = TcpKeepalive::new();
        match self {
            Setting::KeepAlive(on) => socket.set_keepalive(*on),
            Setting::ReusePort(on) => socket.set_reuse_port(*on),
            Setting::ReceiveBuffer(bytes) => socket.set_recv_buffer_size(*bytes),
            Setting::SendBuffer(bytes) => socket.set_send_buffer_size(*bytes),
            Setting::Mark(mark) => socket.set_mark(*mark),
            Setting::NoDelay(on) => socket.set_tcp_nodelay(*on),
            Setting::KeepIdle(time) => socket.set_tcp_keepalive(&keepalive.with_time(*time)),
            Setting::KeepInterval(time) => {
                socket.set_tcp_keepalive(&keepalive.with_interval(*time))
            }
            Setting::KeepCount(count) => socket.set_tcp_keepalive(&keepalive.with_retries(*count)),
            Setting::UserTimeout(time) => socket.set_tcp_user_timeout(Some(*time)),
            Setting::Congestion(name) => socket.set_tcp_congestion(name),
            Setting::Transparent(on) => match family {
                Family::V4 => socket.set_ip_transparent_v4(*on),
                Family::V6 => socket.set_ip_transparent_v6(*on),
            },
            Setting::Freebind(on) => match family {
                Family::V4 => socket.set_freebind_v4(*on),
                Family::V6 => socket.set_freebind_v6(*on),
            },
            // An option of the other family has no effect on this socket, in Envoy neither.
            Setting::TypeOfService(value) if family == Family::V4 => socket.set_tos_v4(*value),
            Setting::TrafficClass(value) if family == Family::V6 => socket.set_tclass_v6(*value),
            Setting::TypeOfService(_) | Setting::TrafficClass(_) => Ok(()),
        }
    }
}

/// A value as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A number.
    Number(i64),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// Sets the options of one moment.
pub fn apply(
    options: &[SocketOption],
    moment: Moment,
    socket: &SockRef<'_>,
    family: Family,
) -> io::Result<()> {
    let due = options.iter().filter(|option| option.moment == moment);
    due.map(|option| &option.setting).try_for_each(|setting| {
        setting.set(socket, family).map_err(|error| {
            io::Error::new(error.kind(), format!("socket option {setting:?}: {error}"))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_options_are_set_and_others_are_not_known() {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let number = Value::Number;
        let options: Vec<SocketOption> = [
            (1, 9, number(1)),
            (1, 8, number(65536)),
            (6, 1, number(1)),
            (6, 4, number(30)),
            (6, 18, number(1500)),
            (6, 13, Value::Bytes(b"reno".to_vec())),
            (0, 1, number(16)),
            (41, 67, number(16)),
        ]
        .into_iter()
        .map(|(level, name, value)| SocketOption {
            moment: Moment::Created,
            setting: Setting::of(level, name, &value).unwrap(),
        })
        .collect();
        apply(
            &options,
            Moment::Created,
            &SockRef::from(&socket),
            Family::V4,
        )
        .unwrap();
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tos_v4().unwrap(), 16);
        assert_eq!(
            socket.tcp_user_timeout().unwrap(),
            Some(Duration::from_millis(1500))
        );
        for (level, name, value) in [
            (1, 2, number(1)),
            (6, 1, Value::Bytes(vec![1])),
            (6, 13, number(1)),
            (1, 9, number(-1)),
        ] {
            assert_eq!(Setting::of(level, name, &value), None, "{level} {name}");
        }
        let nonsense = SocketOption {
            moment: Moment::Bound,
            setting: Setting::Congestion(b"none-such".to_vec()),
        };
        assert!(
            apply(
                &[nonsense],
                Moment::Bound,
                &SockRef::from(&socket),
                Family::V4
            )
            .is_err()
        );
    }
}
