/* A Socket.IO v5 over Engine.IO v4 WebSocket load client: one epoll loop, N connections, driven by lines on stdin.
 *
 * Each connection does the handshake, CONNECT, one subscribe with an acknowledgement, then counts what arrives.
 * An event is one occurrence of `benchNs` in a message; the number after it is the publisher's CLOCK_MONOTONIC in ns.
 *
 * Options: --port --clients --rooms --first --connect --template --inflight --sources --shared --capture --deflate --spin
 * Commands: report | reset | mute K | unmute | echo MS | storm RESUME | quit.  Every answer is one line of JSON.
 */
#include "wire.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <zlib.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

enum state { IDLE, DIALING, UPGRADING, OPENING, JOINING, SUBSCRIBING, LIVE, DEAD };

struct conn {
    int fd;
    enum state state;
    int index, tries, deflate, muted, echo_open;
    uint64_t began, echo_at;
    uint8_t *rest; /* an incomplete frame */
    size_t rest_length;
    char pid[64];
};

/* A log-linear histogram of ns: 128 steps per power of two, so within 1 %. */
#define STEPS 128
struct histogram {
    uint64_t count, max;
    double sum;
    uint64_t cells[64 * STEPS];
};

static struct {
    uint64_t deliveries, frames, reads, bytes, payload, pings, errors, refused, closed, recovered, compressed;
    uint64_t codes[5000];
    uint64_t since;
} stat_;

static struct histogram latency, echo_latency, connect_latency;
static struct conn *conns;
static struct shared *shared;
static int epoll_fd, total, rooms, first_room, port, inflight_limit, sources, want_deflate, resume;
static int inflight, next_dial, live, failed, retries, announced, echo_every, echo_next, spin;
static uint64_t phase_began, echo_due;
static const char *connect_text, *subscribe_text, *echo_text, *capture_path;
static uint8_t *inbox;
static uint8_t *plain;
static z_stream inflater;

#define INBOX (8u << 20)
#define MAX_TRIES 20

static void observe(struct histogram *h, uint64_t ns) {
    int power = 63 - __builtin_clzll(ns | STEPS);
    int shift = power - 7;
    size_t cell = (size_t)shift * STEPS + (size_t)((ns >> shift) & (STEPS - 1));
    h->cells[cell]++;
    h->count++;
    h->sum += (double)ns;
    if (ns > h->max) h->max = ns;
}

static double percentile(const struct histogram *h, double share) {
    uint64_t want = (uint64_t)(share * (double)h->count), seen = 0;
    for (size_t i = 0; i < 64 * STEPS; i++) {
        seen += h->cells[i];
        if (seen > want || (seen == h->count && seen)) {
            uint64_t value = STEPS | i % STEPS; /* the leading bit is implied */
            return (double)(value << i / STEPS) / 1000.0;
        }
    }
    return 0;
}

static void print_histogram(const char *name, const struct histogram *h) {
    printf(",\"%s\":{\"count\":%llu,\"mean\":%.1f,\"p50\":%.1f,\"p90\":%.1f,\"p95\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f}",
           name, (unsigned long long)h->count, h->count ? h->sum / (double)h->count / 1000.0 : 0.0, percentile(h, .50),
           percentile(h, .90), percentile(h, .95), percentile(h, .99), percentile(h, .999), (double)h->max / 1000.0);
}

static void watch(struct conn *c, uint32_t events, int how) {
    struct epoll_event e = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll_fd, how, c->fd, &e) < 0) stat_.errors++;
}

static void dial(struct conn *c) {
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket");
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    struct sockaddr_in here = {.sin_family = AF_INET};
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(c->index % sources));
    if (bind(c->fd, (struct sockaddr *)&here, sizeof here) < 0) die("bind");
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->began = now_ns();
    c->state = DIALING;
    c->deflate = 0;
    c->echo_open = 0;
    inflight++;
    if (connect(c->fd, (struct sockaddr *)&there, sizeof there) < 0 && errno != EINPROGRESS) die("connect");
    watch(c, EPOLLOUT, EPOLL_CTL_ADD);
}

static void hang_up(struct conn *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    free(c->rest);
    c->rest = NULL;
    c->rest_length = 0;
}

/* A connection that ended: before it was live it is tried again, afterwards it stays closed. */
static void lost(struct conn *c) {
    hang_up(c);
    if (c->state == LIVE) {
        live--;
        stat_.closed++;
        c->state = DEAD;
        return;
    }
    inflight--;
    if (++c->tries < MAX_TRIES) {
        retries++;
        c->state = IDLE;
        if (c->index < next_dial) next_dial = c->index;
    } else {
        failed++;
        c->state = DEAD;
    }
}

static void transmit(struct conn *c, uint8_t first, const char *text, size_t length) {
    uint8_t out[1024];
    if (length > sizeof out - 16) die("outgoing text too long");
    size_t n = frame_header(out, first, length, 1);
    uint32_t key = (uint32_t)rand() | 1;
    memcpy(out + n, &key, 4);
    for (size_t i = 0; i < length; i++) out[n + 4 + i] = (uint8_t)text[i] ^ out[n + (i & 3)];
    n += 4 + length;
    if (send(c->fd, out, n, MSG_NOSIGNAL) != (ssize_t)n) stat_.errors++;
}

static void say(struct conn *c, const char *text) { transmit(c, 0x81, text, strlen(text)); }

static void upgrade(struct conn *c) {
    char request[512];
    int n = snprintf(request, sizeof request,
                     "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
                     "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
                     port, want_deflate ? "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n" : "");
    c->state = UPGRADING;
    watch(c, EPOLLIN, EPOLL_CTL_MOD);
    if (send(c->fd, request, (size_t)n, MSG_NOSIGNAL) != n) lost(c);
}

static void join(struct conn *c) {
    char text[512];
    if (resume && c->pid[0]) {
        int bare = connect_text[2] == 0 || !strcmp(connect_text + 2, "{}");
        snprintf(text, sizeof text, "40{\"pid\":\"%s\"%s%s", c->pid, bare ? "}" : ",", bare ? "" : connect_text + 3);
        say(c, text);
    } else {
        say(c, connect_text);
    }
    c->state = JOINING;
}

static void subscribe(struct conn *c) {
    char text[512];
    snprintf(text, sizeof text, subscribe_text, first_room + c->index % rooms);
    say(c, text);
    c->state = SUBSCRIBING;
}

static void go_live(struct conn *c) {
    c->state = LIVE;
    live++;
    inflight--;
    observe(&connect_latency, now_ns() - c->began);
}

static void capture(const uint8_t *text, size_t length) {
    FILE *f = fopen(capture_path, "wb");
    if (!f) die(capture_path);
    fwrite(text, 1, length, f);
    fclose(f);
    capture_path = NULL;
}

static void count_events(const uint8_t *text, size_t length) {
    const uint8_t *end = text + length, *at = text;
    uint64_t now = 0;
    while ((at = memmem(at, (size_t)(end - at), "benchNs", 7))) {
        at += 7;
        while (at < end && (*at < '0' || *at > '9')) at++;
        uint64_t sent = 0;
        while (at < end && *at >= '0' && *at <= '9') sent = sent * 10 + (uint64_t)(*at++ - '0');
        if (!now) now = now_ns();
        if (now > sent) observe(&latency, now - sent);
        stat_.deliveries++;
        if (shared) shared->delivered++;
    }
    if (now && capture_path) capture(text, length);
}

static void keep_pid(struct conn *c, const char *text, size_t length) {
    const char *at = memmem(text, length, "\"pid\":\"", 7);
    if (!at) return;
    at += 7;
    size_t n = 0;
    while (at + n < text + length && at[n] != '"' && n < sizeof c->pid - 1) n++;
    memcpy(c->pid, at, n);
    c->pid[n] = 0;
}

static int starts(const char *text, size_t length, const char *with) {
    size_t n = strlen(with);
    return length >= n && !memcmp(text, with, n);
}

static void acknowledged(struct conn *c, const char *text, size_t length) {
    if (memmem(text, length, "\"ok\":false", 10)) {
        if (!stat_.refused++) fprintf(stderr, "refused: %.*s\n", (int)(length > 300 ? 300 : length), text);
    }
    if (c->state == SUBSCRIBING) {
        go_live(c);
    } else if (c->echo_open) {
        c->echo_open = 0;
        observe(&echo_latency, now_ns() - c->echo_at);
    }
}

static void message(struct conn *c, const char *text, size_t length) {
    stat_.payload += length;
    if (starts(text, length, "42")) {
        stat_.frames++;
        if (memmem(text, length < 200 ? length : 200, "\"recovered\":true", 16)) stat_.recovered++;
        count_events((const uint8_t *)text, length);
    } else if (length == 1 && text[0] == '2') {
        stat_.pings++;
        say(c, "3");
    } else if (starts(text, length, "43")) {
        acknowledged(c, text, length);
    } else if (starts(text, length, "40")) {
        keep_pid(c, text, length);
        if (subscribe_text[0]) subscribe(c); else go_live(c);
    } else if (starts(text, length, "44")) {
        if (!stat_.refused++) fprintf(stderr, "refused: %.*s\n", (int)length, text);
    } else if (text[0] == '0') {
        join(c);
    }
}

static void inflate_message(struct conn *c, const struct frame *f) {
    static const uint8_t tail[4] = {0, 0, 0xff, 0xff};
    inflateReset(&inflater);
    inflater.next_out = plain;
    inflater.avail_out = INBOX;
    inflater.next_in = f->payload;
    inflater.avail_in = (uInt)f->length;
    int first = inflate(&inflater, Z_SYNC_FLUSH);
    inflater.next_in = (uint8_t *)tail;
    inflater.avail_in = 4;
    int second = inflate(&inflater, Z_SYNC_FLUSH);
    if ((first != Z_OK && first != Z_BUF_ERROR) || (second != Z_OK && second != Z_BUF_ERROR && second != Z_STREAM_END)) stat_.errors++;
    stat_.compressed++;
    message(c, (char *)plain, INBOX - inflater.avail_out);
}

static void take_frame(struct conn *c, const struct frame *f) {
    int opcode = f->first & 0x0f;
    if (opcode == 9) {
        transmit(c, 0x8a, (char *)f->payload, f->length);
    } else if (opcode == 8) {
        unsigned code = f->length >= 2 ? (unsigned)f->payload[0] << 8 | f->payload[1] : 1005;
        stat_.codes[code < 5000 ? code : 0]++;
    } else if (opcode == 1 && f->first & 0x40) {
        inflate_message(c, f);
    } else if (opcode == 1 && f->first & 0x80 && f->length) {
        message(c, (char *)f->payload, f->length);
    } else if (opcode != 10) {
        stat_.errors++;
    }
}

/* Takes the answer to the upgrade off the front.  Returns the bytes used, 0 for more, -1 for a refusal. */
static ssize_t take_upgrade(struct conn *c, uint8_t *data, size_t size) {
    uint8_t *end = memmem(data, size, "\r\n\r\n", 4);
    if (!end) return 0;
    if (size < 12 || memcmp(data + 9, "101", 3)) {
        if (!retries) fprintf(stderr, "upgrade refused: %.*s\n", 64, data);
        return -1;
    }
    size_t head = (size_t)(end - data) + 4;
    c->deflate = memmem(data, head, "permessage-deflate", 18) != NULL;
    c->state = OPENING;
    return (ssize_t)head;
}

static void consume(struct conn *c, uint8_t *data, size_t size) {
    size_t at = 0;
    if (c->state == UPGRADING) {
        ssize_t used = take_upgrade(c, data, size);
        if (used < 0) {
            lost(c);
            return;
        }
        at = (size_t)used;
    }
    struct frame f;
    while (c->state != UPGRADING && c->fd >= 0 && at < size && read_frame(data + at, size - at, &f)) {
        take_frame(c, &f);
        at += f.total;
    }
    if (c->fd < 0) return;
    uint8_t *old = c->rest;
    c->rest = NULL;
    c->rest_length = size - at;
    if (c->rest_length) {
        c->rest = malloc(c->rest_length);
        memcpy(c->rest, data + at, c->rest_length);
    }
    free(old);
}

static void receive(struct conn *c) {
    size_t have = c->rest_length;
    if (have) memcpy(inbox, c->rest, have);
    ssize_t n = recv(c->fd, inbox + have, INBOX - have, 0);
    if (n > 0) {
        stat_.bytes += (uint64_t)n;
        stat_.reads++;
        consume(c, inbox, have + (size_t)n);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        lost(c);
    }
}

static void on_event(struct conn *c, uint32_t events) {
    if (c->state == DIALING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) lost(c); else upgrade(c);
    } else if (c->muted && !(events & EPOLLIN)) {
        /* Cut while not reading: leave the bytes until it is told to read again. */
        epoll_ctl(epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
    } else {
        receive(c);
    }
}

static void dial_more(void) {
    while (inflight < inflight_limit && next_dial < total) {
        struct conn *c = &conns[next_dial++];
        if (c->state == IDLE) dial(c);
    }
}

static void announce(void) {
    if (announced || live + failed < total) return;
    announced = 1;
    printf("{\"event\":\"ready\",\"connected\":%d,\"failed\":%d,\"retries\":%d,\"recovered\":%llu,\"seconds\":%.4f", live, failed, retries,
           (unsigned long long)stat_.recovered, (double)(now_ns() - phase_began) / 1e9);
    print_histogram("connectUs", &connect_latency);
    puts("}");
    fflush(stdout);
}

static void report(void) {
    uint64_t now = now_ns(), waiting = 0;
    for (int i = 0; i < total; i++)
        if (conns[i].echo_open && conns[i].state == LIVE && now - conns[i].echo_at > waiting) waiting = now - conns[i].echo_at;
    printf("{\"event\":\"report\",\"live\":%d,\"deliveries\":%llu,\"frames\":%llu,\"reads\":%llu,\"bytes\":%llu,\"payloadBytes\":%llu,\"compressed\":%llu,"
           "\"pings\":%llu,\"errors\":%llu,\"refused\":%llu,\"closed\":%llu,\"recovered\":%llu,\"seconds\":%.4f,\"echoWaitingUs\":%.1f",
           live, (unsigned long long)stat_.deliveries, (unsigned long long)stat_.frames, (unsigned long long)stat_.reads, (unsigned long long)stat_.bytes,
           (unsigned long long)stat_.payload, (unsigned long long)stat_.compressed, (unsigned long long)stat_.pings,
           (unsigned long long)stat_.errors, (unsigned long long)stat_.refused, (unsigned long long)stat_.closed,
           (unsigned long long)stat_.recovered, (double)(now - stat_.since) / 1e9, (double)waiting / 1000.0);
    print_histogram("latencyUs", &latency);
    print_histogram("echoUs", &echo_latency);
    printf(",\"closeCodes\":{");
    const char *comma = "";
    for (int i = 0; i < 5000; i++)
        if (stat_.codes[i]) {
            printf("%s\"%d\":%llu", comma, i, (unsigned long long)stat_.codes[i]);
            comma = ",";
        }
    puts("}}");
    fflush(stdout);
}

static void reset(void) {
    memset(&stat_, 0, sizeof stat_);
    memset(&latency, 0, sizeof latency);
    memset(&echo_latency, 0, sizeof echo_latency);
    stat_.since = now_ns();
}

static void mute(int count) {
    for (int i = 0; i < count && i < total; i++) {
        conns[i].muted = 1;
        watch(&conns[i], 0, EPOLL_CTL_MOD);
    }
}

static void unmute(void) {
    for (int i = 0; i < total; i++)
        if (conns[i].muted && conns[i].fd >= 0) {
            struct epoll_event e = {.events = EPOLLIN, .data.ptr = &conns[i]};
            conns[i].muted = 0;
            if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, conns[i].fd, &e) < 0) epoll_ctl(epoll_fd, EPOLL_CTL_ADD, conns[i].fd, &e);
        }
}

static void storm(int with_resume) {
    for (int i = 0; i < total; i++) {
        hang_up(&conns[i]);
        conns[i].state = IDLE;
        conns[i].tries = 0;
    }
    resume = with_resume;
    live = failed = inflight = next_dial = retries = announced = 0;
    memset(&connect_latency, 0, sizeof connect_latency);
    phase_began = now_ns();
}

static void echo(void) {
    uint64_t now = now_ns();
    if (!echo_every || now < echo_due) return;
    echo_due = now + (uint64_t)echo_every * 1000000ull;
    struct conn *c = &conns[echo_next++ % total];
    if (c->state != LIVE || c->echo_open || c->muted) return;
    c->echo_open = 1;
    c->echo_at = now;
    say(c, echo_text);
}

static int obey(char *line) {
    int number = 0;
    sscanf(line, "%*s %d", &number);
    if (!strncmp(line, "report", 6)) report();
    else if (!strncmp(line, "reset", 5)) reset();
    else if (!strncmp(line, "mute", 4)) mute(number);
    else if (!strncmp(line, "unmute", 6)) unmute();
    else if (!strncmp(line, "echo", 4)) echo_every = number;
    else if (!strncmp(line, "storm", 5)) storm(number);
    else if (!strncmp(line, "quit", 4)) return 0;
    else fprintf(stderr, "unknown command: %s\n", line);
    return 1;
}

/* Returns 0 when the driver is gone or says quit. */
static int commands(void) {
    static char text[4096];
    static size_t have;
    ssize_t n = read(0, text + have, sizeof text - have - 1);
    if (n <= 0) return 0;
    have += (size_t)n;
    text[have] = 0;
    char *line = text, *end;
    while ((end = strchr(line, '\n'))) {
        *end = 0;
        if (!obey(line)) return 0;
        line = end + 1;
    }
    have -= (size_t)(line - text);
    memmove(text, line, have);
    return 1;
}

static void loop(void) {
    static struct epoll_event ready[512];
    for (;;) {
        dial_more();
        announce();
        echo();
        int n = epoll_wait(epoll_fd, ready, 512, spin ? 0 : echo_every ? 1 : 100);
        for (int i = 0; i < n; i++) {
            struct conn *c = ready[i].data.ptr;
            if (!c) {
                if (!commands()) return;
                break; /* a storm makes the other events of this round stale; level triggering brings them again */
            }
            if (c->fd >= 0) on_event(c, ready[i].events);
        }
    }
}

int main(int argc, char **argv) {
    port = atoi(option(argc, argv, "--port", "3001"));
    total = atoi(option(argc, argv, "--clients", "100"));
    rooms = atoi(option(argc, argv, "--rooms", "1"));
    first_room = atoi(option(argc, argv, "--first", "1"));
    inflight_limit = atoi(option(argc, argv, "--inflight", "64"));
    sources = atoi(option(argc, argv, "--sources", "8"));
    spin = atoi(option(argc, argv, "--spin", "0"));
    want_deflate = atoi(option(argc, argv, "--deflate", "0"));
    connect_text = option(argc, argv, "--connect", "40");
    subscribe_text = option(argc, argv, "--template", "420[\"subscribe-agent\",\"a%d\"]");
    echo_text = option(argc, argv, "--echo", "427[\"update-metadata\",{}]");
    capture_path = option(argc, argv, "--capture", NULL);
    const char *page = option(argc, argv, "--shared", NULL);
    if (page) shared = map_shared(page);
    raise_file_limit();
    conns = calloc((size_t)total, sizeof *conns);
    inbox = malloc(INBOX);
    plain = malloc(INBOX);
    if (!conns || !inbox || !plain || inflateInit2(&inflater, -15) != Z_OK) die("memory");
    for (int i = 0; i < total; i++) conns[i] = (struct conn){.fd = -1, .index = i};
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event driver = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &driver);
    phase_began = stat_.since = now_ns();
    loop();
    return 0;
}
