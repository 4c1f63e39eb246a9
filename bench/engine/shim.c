/*
 * fio's side of the engine: translates fio's calls and options. Compiled against the headers of the
 * fio that loads it (scripts/fio-engine.sh), because fio checks a version number and no layout.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fio.h"
#include "optgroup.h"

#include "engine.h"

#define WHY_BYTES 512

struct job {
	struct srpt_fio *way;
	uint32_t slot_bytes;
	/* fio's buffers as it laid them out, in the way's memory; see post_init. */
	struct io_u **units;
	/* Replaces fio's buffers where their layout needs more than the way's memory has. */
	void *own;
};

struct options {
	void *pad; /* an option at offset 0 would mean none */
	char *target;
	char *bdev;
	char *config;
	unsigned int lun;
	unsigned int channels;
	unsigned int timeout_ms;
	unsigned int block_bytes;
};

#define OPTION(option, field, kind, text, ...) { \
	.name = option, \
	.lname = text, \
	.type = kind, \
	.off1 = offsetof(struct options, field), \
	.help = text, \
	.category = FIO_OPT_C_ENGINE, \
	.group = FIO_OPT_G_INVALID, \
	__VA_ARGS__ \
}

static struct fio_option engine_options[] = {
	OPTION("target", target, FIO_OPT_STR_STORE,
	       "Address of the target: shm:PATH or rdma:IP:PORT; default: filename is the path"),
	OPTION("lun", lun, FIO_OPT_INT, "Logical unit number", .def = "0", .maxval = 16383),
	OPTION("channels", channels, FIO_OPT_INT, "Channels of each job", .def = "1",
	       .minval = 1, .maxval = 64),
	OPTION("srp_timeout", timeout_ms, FIO_OPT_INT,
	       "Milliseconds without a completion after which a job fails; 0: never",
	       .def = "30000"),
	OPTION("bdev", bdev, FIO_OPT_STR_STORE,
	       "A block device of this process instead of a target: null:SIZE, malloc:SIZE, "
	       "file:PATH, or a name from json_conf"),
	OPTION("json_conf", config, FIO_OPT_STR_STORE,
	       "Configuration whose bdevs are made, as save_config writes it"),
	OPTION("bdev_block_size", block_bytes, FIO_OPT_INT,
	       "Bytes of a block of a device in words", .def = "512"),
	{ .name = NULL },
};

/* The file name is the socket of a shm listener; ",N" behind it is the logical unit. */
static struct srpt_fio *open_way(struct thread_data *td, uint32_t depth, uint32_t slot_bytes)
{
	struct options *o = td->eo;
	char address[PATH_MAX + 8], why[WHY_BYTES] = "";
	struct srpt_fio_options options = {
		.target = o->target, .bdev = o->bdev, .config = o->config, .lun = o->lun,
		.channels = o->channels, .depth = depth, .timeout_ms = o->timeout_ms,
		.block_bytes = o->block_bytes, .slot_bytes = slot_bytes,
	};
	struct srpt_fio *way;

	if (!o->target && !o->bdev && td->files_index > 0 && td->o.filename) {
		char *comma;

		snprintf(address, sizeof(address), "shm:%s", td->files[0]->file_name);
		comma = strrchr(address, ',');
		if (comma && comma[1] && strspn(comma + 1, "0123456789") == strlen(comma + 1)) {
			options.lun = strtoul(comma + 1, NULL, 10);
			*comma = 0;
		}
		options.target = address;
	}
	way = srpt_fio_open(&options, why, sizeof(why));
	if (!way)
		log_err("srpt: %s\n", why);
	return way;
}

/* Before the jobs are forked: only looks how large the unit is. */
static int setup(struct thread_data *td)
{
	struct srpt_fio *way;
	struct fio_file *f;
	unsigned int i;
	uint64_t bytes;

	if (td->o.nr_files > 1) {
		log_err("srpt: one file per job is needed, not %u\n", td->o.nr_files);
		return 1;
	}
	way = open_way(td, 1, 4096);
	if (!way)
		return 1;
	bytes = srpt_fio_bytes(way);
	srpt_fio_close(way);
	for_each_file(td, f, i) {
		f->filetype = FIO_TYPE_BLOCK;
		f->real_file_size = bytes;
		fio_file_set_size_known(f);
	}
	return 0;
}

static int init(struct thread_data *td)
{
	struct job *job = calloc(1, sizeof(*job));

	if (!job)
		return 1;
	job->units = calloc(td->o.iodepth, sizeof(*job->units));
	if (!job->units) {
		free(job);
		return 1;
	}
	td->io_ops_data = job;
	return 0;
}

static int iomem_alloc(struct thread_data *td, size_t total_mem)
{
	struct job *job = td->io_ops_data;
	unsigned long long bytes = (td_max_bs(td) + 4095) & ~4095ULL;

	if (bytes > 1ULL << 30) {
		log_err("srpt: a block size of %llu bytes is more than 1 GiB\n", bytes);
		return 1;
	}
	job->slot_bytes = bytes;
	job->way = open_way(td, td->o.iodepth, job->slot_bytes);
	if (!job->way)
		return 1;
	/* Where fio lays its buffers out first; post_init moves them to their slots. */
	job->own = calloc(1, total_mem);
	if (!job->own)
		return 1;
	td->orig_buffer = job->own;
	return 0;
}

static void iomem_free(struct thread_data *td)
{
	struct job *job = td->io_ops_data;

	if (job && job->own) {
		free(job->own);
		job->own = NULL;
	}
}

/* Every unit's buffer becomes the memory that its slot moves data to and from. */
static int post_init(struct thread_data *td)
{
	struct job *job = td->io_ops_data;
	unsigned long long max_bs = td_max_bs(td);
	int i;

	/* fio asks for no memory for a job that only trims. */
	bool data = job->way;

	if (!data) {
		job->slot_bytes = 4096;
		job->way = open_way(td, td->o.iodepth, job->slot_bytes);
	}
	if (!job->way) {
		/* Without it fio ends as if nothing had failed. */
		td_verror(td, EIO, "opening the target");
		return 1;
	}
	for (i = 0; i < td->io_u_all.nr; i++) {
		struct io_u *io_u = td->io_u_all.io_us[i];

		job->units[io_u->index] = io_u;
		if (data) {
			char *slot = srpt_fio_memory(job->way);

			slot += (size_t) io_u->index * job->slot_bytes;
			memcpy(slot, io_u->buf, max_bs);
			io_u->buf = slot;
			io_u->xfer_buf = slot;
		}
	}
	return 0;
}

static enum fio_q_status queue(struct thread_data *td, struct io_u *io_u)
{
	struct job *job = td->io_ops_data;
	int kind, taken;

	switch (io_u->ddir) {
	case DDIR_READ:
		kind = 0;
		break;
	case DDIR_WRITE:
		kind = 1;
		break;
	case DDIR_SYNC:
	case DDIR_DATASYNC:
		kind = 2;
		break;
	case DDIR_TRIM:
		kind = 3;
		break;
	default:
		io_u->error = EOPNOTSUPP;
		return FIO_Q_COMPLETED;
	}
	taken = srpt_fio_queue(job->way, io_u->index, kind, kind == 2 ? 0 : io_u->offset,
			       kind == 2 ? 0 : io_u->xfer_buflen);
	if (taken < 0) {
		io_u->error = -taken;
		return FIO_Q_COMPLETED;
	}
	return taken == 0 ? FIO_Q_QUEUED : FIO_Q_BUSY;
}

static int commit(struct thread_data *td)
{
	struct job *job = td->io_ops_data;
	int result = srpt_fio_commit(job->way);

	/* fio counts what is in flight by io_u_queued after this. */
	if (result == 0)
		io_u_mark_submit(td, td->io_u_queued);
	return result;
}

/* All that have ended are retired, even more than asked for. */
static int getevents(struct thread_data *td, unsigned int min, unsigned int max,
		     const struct timespec *t)
{
	struct job *job = td->io_ops_data;
	int64_t wait_ns = t ? t->tv_sec * 1000000000LL + t->tv_nsec : -1;

	return srpt_fio_reap(job->way, min, min ? wait_ns : 0);
}

static struct io_u *event(struct thread_data *td, int index)
{
	struct job *job = td->io_ops_data;
	int error = 0;
	uint32_t slot = srpt_fio_event(job->way, index, &error);
	struct io_u *io_u = job->units[slot];

	io_u->error = error;
	return io_u;
}

static void cleanup(struct thread_data *td)
{
	struct job *job = td->io_ops_data;

	if (!job)
		return;
	if (job->way)
		srpt_fio_close(job->way);
	free(job->own);
	free(job->units);
	free(job);
	td->io_ops_data = NULL;
}

static int open_file(struct thread_data *td, struct fio_file *f)
{
	return 0;
}

static int close_file(struct thread_data *td, struct fio_file *f)
{
	return 0;
}

struct ioengine_ops ioengine = {
	.name = "srpt",
	.version = FIO_IOOPS_VERSION,
	.flags = FIO_RAWIO | FIO_NOEXTEND | FIO_NODISKUTIL | FIO_MEMALIGN | FIO_DISKLESSIO,
	.setup = setup,
	.init = init,
	.post_init = post_init,
	.queue = queue,
	.commit = commit,
	.getevents = getevents,
	.event = event,
	.cleanup = cleanup,
	.open_file = open_file,
	.close_file = close_file,
	.iomem_alloc = iomem_alloc,
	.iomem_free = iomem_free,
	.option_struct_size = sizeof(struct options),
	.options = engine_options,
};
