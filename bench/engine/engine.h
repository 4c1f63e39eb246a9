/* The C interface between the two halves of the engine; src/sys/mod.rs defines it. */
#ifndef SRPT_FIO_ENGINE_H
#define SRPT_FIO_ENGINE_H

#include <stddef.h>
#include <stdint.h>

struct srpt_fio_options {
	const char *target;
	const char *bdev;
	const char *config;
	uint32_t lun;
	uint32_t channels;
	uint32_t depth;
	uint32_t timeout_ms;
	uint32_t block_bytes;
	uint32_t slot_bytes;
};

struct srpt_fio;

struct srpt_fio *srpt_fio_open(const struct srpt_fio_options *options, char *why, size_t why_bytes);
void srpt_fio_close(struct srpt_fio *job);
uint64_t srpt_fio_bytes(const struct srpt_fio *job);
void *srpt_fio_memory(const struct srpt_fio *job);
int srpt_fio_queue(struct srpt_fio *job, uint32_t slot, int kind, uint64_t at, uint64_t bytes);
int srpt_fio_commit(struct srpt_fio *job);
int srpt_fio_reap(struct srpt_fio *job, uint32_t min, int64_t wait_ns);
uint32_t srpt_fio_event(struct srpt_fio *job, uint32_t index, int *error);

#endif
