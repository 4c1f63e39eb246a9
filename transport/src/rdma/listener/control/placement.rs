//! Which core a channel goes to.
use super::{Connection, Control};
use crate::srp::{LoginReq, Multichannel, PortId};

/// Where a channel sits in its session, by the channel's login. Kept with its connection, so
/// there are no more of them than connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat {
    nexus: (PortId, PortId),
    /// The core of the session's first channel.
    first: usize,
    /// Its number in the session.
    channel: usize,
}

impl Control {
    /// The core for a login, and its seat when channels go in order. None: no core has room.
    pub(super) fn choose(&mut self, login: &[u8]) -> Option<(usize, Option<Seat>)> {
        let fewest = (0..self.cores.len())
            .filter(|core| !self.cores[*core].free.is_empty())
            .min_by_key(|core| self.cores[*core].slots.len() - self.cores[*core].free.len())?;
        if !self.channels_in_order {
            return Some((fewest, None));
        }
        // The core answers a login that is none.
        let Ok(login) = LoginReq::parse(login) else { return Some((fewest, None)) };
        let slots = self.cores.iter_mut().flat_map(|core| &mut core.slots);
        let seats = slots.filter_map(|slot| slot.connection.as_mut()).map(seat_of);
        let seat = take_seat(&login, fewest, seats);
        let core = (seat.first + seat.channel) % self.cores.len();
        let core = if self.cores[core].free.is_empty() { fewest } else { core };
        Some((core, Some(seat)))
    }
}

fn seat_of(connection: &mut Connection) -> &mut Option<Seat> {
    &mut connection.seat
}

/// A seat among `seats`, those of the living. A login that ends its session's other channels takes
/// theirs away and begins at `fewest`; another one takes the lowest free number.
fn take_seat<'a>(
    login: &LoginReq,
    fewest: usize,
    seats: impl Iterator<Item = &'a mut Option<Seat>>,
) -> Seat {
    let nexus = (login.initiator_port_id, login.target_port_id);
    let single = login.multichannel() == Multichannel::Single;
    let (mut first, mut taken) = (None, Vec::new());
    for seat in seats {
        match seat {
            Some(held) if held.nexus != nexus => {}
            Some(_) if single => *seat = None,
            Some(held) => {
                first = Some(held.first);
                taken.push(held.channel);
            }
            None => {}
        }
    }
    let channel = (0..).find(|channel| !taken.contains(channel)).unwrap_or(0);
    Seat { nexus, first: first.unwrap_or(fewest), channel }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::srp::LoginForm;

    fn login(initiator: u8, req_flags: u8) -> LoginReq {
        LoginReq {
            form: LoginForm::RdmaCm,
            tag: [0; 8],
            req_it_iu_len: 8260,
            req_buf_fmt: 6,
            req_flags,
            imm_data_offset: 0,
            initiator_port_id: [initiator; 16],
            target_port_id: [1; 16],
        }
    }

    fn sit(seats: &mut Vec<Option<Seat>>, login: &LoginReq, fewest: usize) -> (usize, usize) {
        let seat = take_seat(login, fewest, seats.iter_mut());
        seats.push(Some(seat));
        (seat.first, seat.channel)
    }

    #[test]
    fn each_session_counts_from_its_own_first() {
        let (seats, multi) = (&mut Vec::new(), LoginReq::FLAG_MULTI);
        assert_eq!(sit(seats, &login(1, 0), 0), (0, 0));
        assert_eq!(sit(seats, &login(2, 0), 1), (1, 0));
        assert_eq!(sit(seats, &login(1, multi), 1), (0, 1));
        assert_eq!(sit(seats, &login(2, multi), 0), (1, 1));
        let other_target = LoginReq { target_port_id: [2; 16], ..login(1, multi) };
        assert_eq!(sit(seats, &other_target, 3), (3, 0));
    }

    #[test]
    fn a_channel_that_comes_back_takes_the_place_that_is_free() {
        let (seats, multi) = (&mut Vec::new(), LoginReq::FLAG_MULTI);
        sit(seats, &login(1, 0), 2);
        (1..4).for_each(|channel| assert_eq!(sit(seats, &login(1, multi), 0), (2, channel)));
        seats.remove(1);
        assert_eq!(sit(seats, &login(1, multi), 0), (2, 1));
        assert_eq!(sit(seats, &login(1, multi), 0), (2, 4));
    }

    #[test]
    fn a_login_that_ends_the_others_begins_anew() {
        let (seats, multi) = (&mut Vec::new(), LoginReq::FLAG_MULTI);
        sit(seats, &login(1, 0), 0);
        sit(seats, &login(1, multi), 0);
        sit(seats, &login(2, 0), 0);
        // The old ones are still there.
        assert_eq!(sit(seats, &login(1, 0), 3), (3, 0));
        assert_eq!(sit(seats, &login(1, multi), 0), (3, 1));
        assert_eq!(sit(seats, &login(2, multi), 1), (0, 1));
    }
}
