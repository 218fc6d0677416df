/* What the load client and the reference loop share: clock, WebSocket framing (RFC 6455 section 5.2), shared counters. */
#ifndef BENCH_WIRE_H
#define BENCH_WIRE_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/* One page shared with the driver: `delivered` is written by the load client, the others by the driver. */
struct shared {
    volatile uint64_t delivered; /* events that arrived, over all clients, since the client started */
    volatile uint64_t start_ns;  /* when the reference loop sends its first event; 0 while it waits */
    volatile uint64_t stop_ns;   /* when it sends no more */
};

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static inline void die(const char *what) {
    perror(what);
    exit(2);
}

static inline struct shared *map_shared(const char *path) {
    int fd = open(path, O_RDWR);
    if (fd < 0) die(path);
    void *page = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED) die("mmap");
    close(fd);
    return page;
}

static inline void raise_file_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static inline const char *option(int argc, char **argv, const char *name, const char *otherwise) {
    for (int i = 1; i + 1 < argc; i++)
        if (!strcmp(argv[i], name)) return argv[i + 1];
    return otherwise;
}

/* Writes a frame header; `mask` sets the mask bit and leaves room for the key.  Returns its length. */
static inline size_t frame_header(uint8_t *out, uint8_t first, uint64_t length, int mask) {
    size_t n = 2;
    out[0] = first;
    if (length < 126) {
        out[1] = (uint8_t)length;
    } else if (length < 65536) {
        out[1] = 126;
        out[2] = (uint8_t)(length >> 8);
        out[3] = (uint8_t)length;
        n = 4;
    } else {
        out[1] = 127;
        for (int i = 0; i < 8; i++) out[2 + i] = (uint8_t)(length >> (56 - 8 * i));
        n = 10;
    }
    if (mask) out[1] |= 0x80;
    return n;
}

struct frame {
    uint8_t first;
    uint8_t *payload;
    size_t length;
    size_t total;
};

/* Reads one frame at `data`, unmasking it in place.  Returns 0 when more bytes are needed. */
static inline int read_frame(uint8_t *data, size_t size, struct frame *f) {
    if (size < 2) return 0;
    size_t head = 2;
    uint64_t length = data[1] & 0x7f;
    int masked = data[1] & 0x80;
    if (length == 126) {
        if (size < 4) return 0;
        length = (uint64_t)data[2] << 8 | data[3];
        head = 4;
    } else if (length == 127) {
        if (size < 10) return 0;
        length = 0;
        for (int i = 0; i < 8; i++) length = length << 8 | data[2 + i];
        head = 10;
    }
    uint8_t *key = data + head;
    if (masked) head += 4;
    if (size < head + length) return 0;
    f->first = data[0];
    f->payload = data + head;
    f->length = length;
    f->total = head + length;
    if (masked)
        for (uint64_t i = 0; i < length; i++) f->payload[i] ^= key[i & 3];
    return 1;
}

#endif
