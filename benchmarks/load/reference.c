/* The reference: what a delivery costs when nothing but send() is done.
 *
 * It answers the load client's handshake with the least that client accepts, then sends the same bytes to every
 * connection of a room.  Two feeds:
 *   clock: events of its own, at --rate per second, or as fast as the clients take them with --window events open;
 *   redis: frames what arrives on one Redis channel ("<room> <text>") and sends it, so that a latency can be compared
 *          over the same path.
 * --join sends so many events to a connection in one piece.
 * Options: --port --workers --frame FILE --join --feed clock|redis --rate --window --clients --rooms --shared --redis PORT
 */
#include "wire.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define MAX_ROOM 65536
#define INBOX (4u << 20)

struct conn {
    int fd, upgraded;
};

struct room {
    int *fds;
    int count, space;
};

static struct room members[MAX_ROOM];
static struct shared *shared;
static int epoll_fd, listener, redis_fd = -1, clients, room_count;
static double rate;
static uint64_t window, join;
static uint8_t *frame, *inbox;
static size_t frame_length;
static char *stamp; /* the digits after benchNs inside `frame` */
static int stamp_width;
static uint64_t sent_events, began_delivered;
static uint64_t short_writes;

static void enter(int room, int fd) {
    struct room *r = &members[room % MAX_ROOM];
    if (r->count == r->space) {
        r->space = r->space ? r->space * 2 : 4;
        r->fds = realloc(r->fds, (size_t)r->space * sizeof(int));
        if (!r->fds) die("realloc");
    }
    r->fds[r->count++] = fd;
}

static void leave(int fd) {
    for (int i = 0; i < MAX_ROOM; i++)
        for (int k = 0; k < members[i].count; k++)
            if (members[i].fds[k] == fd) members[i].fds[k--] = members[i].fds[--members[i].count];
}

static void deliver(int room, const uint8_t *bytes, size_t length) {
    struct room *r = &members[room % MAX_ROOM];
    for (int i = 0; i < r->count; i++)
        if (send(r->fds[i], bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)length) short_writes++;
}

static void reply(int fd, const char *text) {
    uint8_t out[512];
    size_t length = strlen(text), n = frame_header(out, 0x81, length, 0);
    memcpy(out + n, text, length);
    if (send(fd, out, n + length, MSG_NOSIGNAL) < 0) short_writes++;
}

static void accept_all(void) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct conn *c = calloc(1, sizeof *c);
        if (!c) die("calloc");
        c->fd = fd;
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
    }
}

static void on_text(struct conn *c, const char *text, size_t length) {
    if (length >= 3 && !memcmp(text, "420", 3)) {
        const char *id = memmem(text, length, ",\"a", 3);
        enter(id ? atoi(id + 3) : 0, c->fd);
        reply(c->fd, "430[{\"ok\":true}]");
    } else if (length >= 3 && !memcmp(text, "427", 3)) {
        reply(c->fd, "437[{\"ok\":true}]");
    } else if (length >= 2 && !memcmp(text, "40", 2)) {
        reply(c->fd, "40{\"sid\":\"reference\"}");
    }
}

static void on_client(struct conn *c) {
    ssize_t n = recv(c->fd, inbox, INBOX - 1, 0);
    if (n <= 0) {
        if (n < 0 && errno == EAGAIN) return;
        leave(c->fd);
        close(c->fd);
        free(c);
        return;
    }
    if (!c->upgraded) {
        static const char yes[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
        c->upgraded = 1;
        if (send(c->fd, yes, sizeof yes - 1, MSG_NOSIGNAL) < 0) short_writes++;
        reply(c->fd, "0{\"sid\":\"reference\",\"upgrades\":[],\"pingInterval\":25000,\"pingTimeout\":20000,\"maxPayload\":1000000}");
        return;
    }
    struct frame f;
    size_t at = 0;
    while (at < (size_t)n && read_frame(inbox + at, (size_t)n - at, &f)) {
        if ((f.first & 15) == 1) on_text(c, (char *)f.payload, f.length);
        at += f.total;
    }
}

static void load_frame(const char *path) {
    static uint8_t text[1 << 20];
    FILE *f = fopen(path, "rb");
    if (!f) die(path);
    size_t n = fread(text, 1, sizeof text, f);
    fclose(f);
    frame = malloc(n + 16);
    if (!frame) die("malloc");
    size_t head = frame_header(frame, 0x81, n, 0);
    memcpy(frame + head, text, n);
    frame_length = head + n;
    frame = realloc(frame, frame_length * join);
    if (!frame) die("realloc");
    for (uint64_t i = 1; i < join; i++) memcpy(frame + i * frame_length, frame, frame_length);
    stamp = memmem(frame, frame_length, "benchNs", 7);
    if (!stamp) die("no benchNs in the frame");
    stamp += 7;
    while (*stamp < '0' || *stamp > '9') stamp++;
    while (stamp[stamp_width] >= '0' && stamp[stamp_width] <= '9') stamp_width++;
}

static void send_event(void) {
    char digits[32];
    snprintf(digits, sizeof digits, "%0*llu", stamp_width, (unsigned long long)now_ns());
    for (uint64_t i = 0; i < join; i++) memcpy(stamp + i * frame_length, digits, (size_t)stamp_width);
    deliver(1 + (int)(sent_events % (uint64_t)room_count), frame, frame_length * join);
    sent_events += join;
}

/* Sends what is due; returns the ms to sleep. */
static int clock_feed(void) {
    uint64_t start = shared->start_ns, now = now_ns();
    if (!start || now < start) {
        sent_events = 0;
        began_delivered = shared->delivered;
        return start && start - now < 10000000ull ? 1 : 10;
    }
    if (now >= shared->stop_ns) return 10;
    if (window) {
        if (sent_events + join > window + (shared->delivered - began_delivered) / (uint64_t)clients) return 1;
        send_event();
        return 0;
    }
    uint64_t due = start + (uint64_t)((double)sent_events * 1e9 / rate);
    if (now >= due) {
        send_event();
        return 0;
    }
    if (due - now < 1000000) {
        struct timespec rest = {.tv_nsec = (long)(due - now)}; /* epoll's ms are too coarse, and spinning would be counted */
        nanosleep(&rest, NULL);
        return 0;
    }
    return (int)((due - now) / 1000000);
}

static void open_redis(int redis_port) {
    static const char ask[] = "SUBSCRIBE bench-reference\r\n";
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons((uint16_t)redis_port)};
    there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    redis_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(redis_fd, (struct sockaddr *)&there, sizeof there) < 0) die("redis");
    if (write(redis_fd, ask, sizeof ask - 1) < 0) die("redis");
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = &redis_fd};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, redis_fd, &e);
}

/* One bulk string or integer of a RESP array at `at`.  Returns the byte after it, or NULL for more. */
static char *resp_item(char *at, char *end, char **item, long *length) {
    char *line = memmem(at, (size_t)(end - at), "\r\n", 2);
    if (!line) return NULL;
    *item = line + 2;
    *length = *at == '$' ? atol(at + 1) : 0;
    if (*at != '$') return line + 2;
    return *item + *length + 2 <= end ? *item + *length + 2 : NULL;
}

static void on_published(char *text, long length) {
    static uint8_t out[1 << 20];
    char *space = memchr(text, ' ', (size_t)length);
    if (!space) return;
    size_t n = (size_t)(length - (space + 1 - text)), head = frame_header(out, 0x81, n, 0);
    memcpy(out + head, space + 1, n);
    deliver(atoi(text), out, head + n);
}

static void on_redis(void) {
    static char text[4u << 20];
    static size_t have;
    ssize_t n = read(redis_fd, text + have, sizeof text - have);
    if (n <= 0) die("redis went away");
    have += (size_t)n;
    char *at = text, *end = text + have, *next, *item[3];
    long length[3];
    while (at < end && (next = memmem(at, (size_t)(end - at), "\r\n", 2))) {
        next += 2;
        for (int i = 0; i < 3 && next; i++) next = next < end ? resp_item(next, end, &item[i], &length[i]) : NULL;
        if (!next) break;
        if (length[0] == 7) on_published(item[2], length[2]);
        at = next;
    }
    have = (size_t)(end - at);
    memmove(text, at, have);
}

static void loop(void) {
    static struct epoll_event ready[512];
    for (;;) {
        int wait = redis_fd >= 0 ? 1000 : clock_feed();
        int n = epoll_wait(epoll_fd, ready, 512, wait);
        for (int i = 0; i < n; i++) {
            if (!ready[i].data.ptr) accept_all();
            else if (ready[i].data.ptr == &redis_fd) on_redis();
            else on_client(ready[i].data.ptr);
        }
    }
}

static void listen_on(int port) {
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int one = 1;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) < 0 || listen(listener, 4096) < 0) die("listen");
}

static void work(int port, int redis_port) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    signal(SIGTERM, SIG_DFL);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    inbox = malloc(INBOX);
    listen_on(port);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &e);
    if (redis_port) open_redis(redis_port);
    loop();
}

static void stop(int signal_number) {
    (void)signal_number;
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGTERM); /* our own process group: the driver starts us in a new session */
    _exit(0);
}

int main(int argc, char **argv) {
    int port = atoi(option(argc, argv, "--port", "3001")), workers = atoi(option(argc, argv, "--workers", "1"));
    int redis_port = strcmp(option(argc, argv, "--feed", "clock"), "redis") ? 0 : atoi(option(argc, argv, "--redis", "6379"));
    rate = atof(option(argc, argv, "--rate", "10"));
    window = strtoull(option(argc, argv, "--window", "0"), NULL, 10);
    join = strtoull(option(argc, argv, "--join", "1"), NULL, 10);
    clients = atoi(option(argc, argv, "--clients", "1000"));
    room_count = atoi(option(argc, argv, "--rooms", "1"));
    shared = map_shared(option(argc, argv, "--shared", "shared"));
    const char *path = option(argc, argv, "--frame", NULL);
    if (path) load_frame(path);
    raise_file_limit();
    for (int i = 0; i < workers; i++)
        if (fork() == 0) work(port, redis_port);
    signal(SIGTERM, stop);
    while (wait(NULL) > 0) {}
    return 0;
}
