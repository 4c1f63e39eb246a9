//! The data of a command on its way from the initiator, before its job.

use reactor::Tag;
use reactor::pool::Buf;
use transport::{CloseReason, Fabric};

use super::Requests;
use super::job::{NO_CDB_BYTE, Outcome, Source};
use super::reply::collect_segs;
use super::request::Phase;
use crate::scsi::Sense;
use crate::shard::connections::table::Connections;
use crate::shard::coverage::{Mark, Met, mark, met};
use crate::shard::names::RequestKey;
use crate::shard::units::map::Luns;

impl Requests {
    /// Starts to move what a request needs from the initiator, or the job if that is nothing.
    #[inline]
    pub(super) fn start_data<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        luns: &mut Luns,
        key: RequestKey,
    ) {
        let request = self.request(key);
        if let Source::ExternalTable(seg) = request.source() {
            let table = request.take_table().expect("taken with the job");
            request.enter(Phase::FetchingTable);
            let conn = request.conn();
            return connections.fabric_mut().fetch(conn, key.tag(), table, &[seg]);
        }
        self.fetch_data(connections, luns, key);
    }

    /// Fetches data-out, its segments being known; then the job.
    #[inline]
    fn fetch_data<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        luns: &mut Luns,
        key: RequestKey,
    ) {
        let request = self.slots.get_mut(key.tag()).expect("begun");
        if !request.must_fetch() {
            return self.execute(connections, luns, key);
        }
        let conn = request.conn();
        if request.source() == Source::Immediate {
            let offset = connections.get(conn).agreed().imm_data_offset;
            let at = offset.expect("planned as such") as usize;
            let mut data = request.take_data().expect("looked at above");
            let len = data.len();
            data.write_at(0, &connections.iu(conn, request.recv())[at..][..len]);
            request.put_data(Some(data));
            return self.execute(connections, luns, key);
        }
        if !collect_segs(request, connections, &mut self.segs) {
            let outcome = Outcome::check(Sense::invalid_field_in_cdb(NO_CDB_BYTE));
            return self.respond(connections, luns, key, outcome, false);
        }
        request.enter(Phase::Fetching);
        let data = request.take_data().expect("looked at above");
        connections.fabric_mut().fetch(conn, key.tag(), data, &self.segs);
    }

    /// The fabric has read the initiator's memory.
    #[inline(never)]
    pub(crate) fn on_fetched<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        luns: &mut Luns,
        (tag, buf): (Tag, Buf),
        ok: bool,
    ) {
        let key = RequestKey::of(tag);
        let request = self.request(key);
        let was_table = request.phase() == Phase::FetchingTable;
        met(request.phase(), if ok { Met::Success } else { Met::Failure });
        if was_table {
            request.put_table(buf);
        } else {
            request.put_data(Some(buf));
        }
        if !ok {
            // The fabric is closing the connection: nothing more may be said on it.
            let conn = request.conn();
            self.close(connections, conn, CloseReason::Link);
            return self.discard(connections, luns, key);
        }
        if !self.goes_on(connections, luns, key) {
            return;
        }
        if !was_table {
            return self.execute(connections, luns, key);
        }
        let request = self.slots.get(key.tag()).expect("begun");
        if collect_segs(request, connections, &mut self.segs) {
            self.fetch_data(connections, luns, key);
        } else {
            mark(Mark::TableShort);
            let outcome = Outcome::check(Sense::invalid_field_in_cdb(NO_CDB_BYTE));
            self.respond(connections, luns, key, outcome, false);
        }
    }
}
