/* A bare echo over TLS 1.3, or in clear text: what the bytes of a benchmark cost when nothing else is done.
 *
 *     echo serve PORT-FILE [CERTIFICATE KEY]
 *     echo load PORT SECONDS DEPTH BYTES tls|clear
 *
 * The client keeps DEPTH requests of 32 bytes under way, the server answers each with 32 + BYTES bytes: the frames of
 * a READ. One blocking loop a side. As much as there is goes into full records, and those into one send, of half of what
 * is under way, but 64 KiB at least and 256 KiB at most: so one side works while the other does. What arrived is
 * decrypted as a whole before it is answered. Loopback only. The client prints one line of JSON.
 *
 * Built with MULTI_BUFFER, records are made and opened by intel-ipsec-mb, as Sluice does it.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 32, DEPTH_MAX = 1024, PAYLOAD_MAX = 1 << 20, CHUNK = 256 << 10, CHUNK_MIN = 64 << 10 };

static void fail(const char *what) {
    perror(what);
    exit(1);
}

#ifdef MULTI_BUFFER
#include "echo_records.h"
#endif

struct peer {
    int fd;
    SSL *ssl;
#ifdef MULTI_BUFFER
    struct records *records;
#endif
};

static size_t receive(struct peer *peer, void *bytes, size_t room) {
#ifdef MULTI_BUFFER
    if (peer->records) return records_receive(peer->records, peer->fd, bytes, room);
#endif
    if (peer->ssl) {
        size_t all = 0;
        do {
            int count = SSL_read(peer->ssl, (char *)bytes + all, (int)(room - all));
            if (count <= 0) return 0;
            all += (size_t)count;
        } while (all < room && SSL_has_pending(peer->ssl));
        return all;
    }
    ssize_t count = recv(peer->fd, bytes, room, 0);
    return count > 0 ? (size_t)count : 0;
}

static int send_clear(struct peer *peer, const char *bytes, size_t count) {
    while (count > 0) {
        ssize_t sent = send(peer->fd, bytes, count, MSG_NOSIGNAL);
        if (sent <= 0) return 0;
        bytes += sent;
        count -= (size_t)sent;
    }
    return 1;
}

static int send_all(struct peer *peer, const char *bytes, size_t count) {
#ifdef MULTI_BUFFER
    if (peer->records) {
        for (size_t at = 0, piece; at < count; at += piece) {
            piece = count - at < CHUNK ? count - at : CHUNK;
            size_t sealed = seal(peer->records, (const unsigned char *)bytes + at, piece);
            if (!send_clear(peer, (const char *)peer->records->sealed, sealed)) return 0;
        }
        return 1;
    }
#endif
    if (peer->ssl) {
        for (size_t at = 0, piece; at < count; at += piece) {
            piece = count - at < CHUNK ? count - at : CHUNK;
            if (SSL_write(peer->ssl, bytes + at, (int)piece) != (int)piece || BIO_flush(SSL_get_wbio(peer->ssl)) != 1)
                return 0;
        }
        return 1;
    }
    return send_clear(peer, bytes, count);
}

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Records leave together: OpenSSL alone makes a system call for each. */
static SSL *session(SSL_CTX *tls, int fd) {
    SSL *made = SSL_new(tls);
    BIO *socket = BIO_new_socket(fd, BIO_NOCLOSE), *gathered = BIO_new(BIO_f_buffer());
    if (!made || !socket || !gathered) fail("SSL_new");
    BIO_set_write_buffer_size(gathered, CHUNK + (64 << 10));
    BIO_up_ref(socket);
    SSL_set_bio(made, socket, BIO_push(gathered, socket));
    return made;
}

static SSL_CTX *context(const SSL_METHOD *method) {
    SSL_CTX *made = SSL_CTX_new(method);
    if (!made) fail("SSL_CTX_new");
    SSL_CTX_set_min_proto_version(made, TLS1_3_VERSION);
    SSL_CTX_set_ciphersuites(made, "TLS_AES_128_GCM_SHA256");
#ifdef MULTI_BUFFER
    SSL_CTX_set_num_tickets(made, 0);
    SSL_CTX_set_keylog_callback(made, keep_secret);
#else
    SSL_CTX_set_read_ahead(made, 1);
    SSL_CTX_set_default_read_buffer_len(made, CHUNK);
#endif
    return made;
}

/* The handshake, and whatever takes over after it. */
static int shake_hands(struct peer *peer, SSL_CTX *tls, int is_server) {
    peer->ssl = session(tls, peer->fd);
#ifdef MULTI_BUFFER
    struct secrets secrets;
    SSL_set_app_data(peer->ssl, &secrets);
#endif
    if ((is_server ? SSL_accept(peer->ssl) : SSL_connect(peer->ssl)) != 1) return 0;
#ifdef MULTI_BUFFER
    peer->records = records_new(&secrets, is_server);
#endif
    return 1;
}

/* A request says in its first four bytes how long the answer's payload is, and in the next how much is sent at once. */
static void answer(struct peer *peer) {
    static char requests[DEPTH_MAX * HEADER], replies[CHUNK + HEADER + PAYLOAD_MAX];
    size_t held = 0;
    for (size_t count; (count = receive(peer, requests + held, sizeof requests - held)) > 0;) {
        held += count;
        size_t at = 0, filled = 0;
        for (; held - at >= HEADER; at += HEADER) {
            uint32_t asked[2];
            memcpy(asked, requests + at, sizeof asked);
            if (asked[0] > PAYLOAD_MAX || asked[1] > CHUNK) return;
            memcpy(replies + filled, requests + at, HEADER);
            filled += HEADER + asked[0];
            if (filled >= asked[1]) {
                if (!send_all(peer, replies, filled)) return;
                filled = 0;
            }
        }
        if (filled > 0 && !send_all(peer, replies, filled)) return;
        memmove(requests, requests + at, held - at);
        held -= at;
    }
}

static void serve(int argc, char **argv) {
    SSL_CTX *tls = NULL;
    if (argc > 4) {
        tls = context(TLS_server_method());
        if (SSL_CTX_use_certificate_chain_file(tls, argv[3]) != 1 ||
            SSL_CTX_use_PrivateKey_file(tls, argv[4], SSL_FILETYPE_PEM) != 1)
            fail("certificate");
    }
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof place;
    if (listener < 0 || bind(listener, (struct sockaddr *)&place, size) || listen(listener, 8) ||
        getsockname(listener, (struct sockaddr *)&place, &size))
        fail("listen");
    FILE *file = fopen(argv[2], "w");
    if (!file || fprintf(file, "%d\n", ntohs(place.sin_port)) < 0 || fclose(file)) fail(argv[2]);
    for (;;) {
        struct peer peer = {.fd = accept(listener, NULL, NULL)};
        if (peer.fd < 0) fail("accept");
        setsockopt(peer.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (!tls || shake_hands(&peer, tls, 1)) answer(&peer);
#ifdef MULTI_BUFFER
        records_free(peer.records);
#endif
        SSL_free(peer.ssl);
        close(peer.fd);
    }
}

static void load(char **argv) {
    int port = atoi(argv[2]), depth = atoi(argv[4]), one = 1;
    double length = atof(argv[3]);
    uint32_t payload = (uint32_t)atol(argv[5]);
    size_t half = (size_t)depth * payload / 2;
    uint32_t asked[2] = {payload, half < CHUNK_MIN ? CHUNK_MIN : half > CHUNK ? CHUNK : (uint32_t)half};
    if (depth < 1 || depth > DEPTH_MAX || payload > PAYLOAD_MAX) exit(64);
    struct peer peer = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    struct sockaddr_in place = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)port)};
    if (peer.fd < 0 || connect(peer.fd, (struct sockaddr *)&place, sizeof place)) fail("connect");
    setsockopt(peer.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (strcmp(argv[6], "tls") == 0 && !shake_hands(&peer, context(TLS_client_method()), 0)) fail("SSL_connect");
    static char requests[DEPTH_MAX * HEADER], replies[CHUNK];
    for (int index = 0; index < DEPTH_MAX; index++) memcpy(requests + index * HEADER, asked, sizeof asked);
    size_t frame = HEADER + payload, part = 0;
    unsigned long long done = 0;
    double begun = seconds_now(), end = begun + length, now = begun;
    if (!send_all(&peer, requests, (size_t)depth * HEADER)) fail("send");
    while (now < end) {
        size_t count = receive(&peer, replies, sizeof replies);
        if (count == 0) fail("receive");
        part += count;
        size_t whole = part / frame;
        part %= frame;
        if (whole > 0 && !send_all(&peer, requests, whole * HEADER)) fail("send");
        done += whole;
        now = seconds_now();
    }
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                 (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    printf("{\"operations\": %llu, \"seconds\": %.6f, \"cpu\": %.6f}\n", done, now - begun, cpu);
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    if (argc >= 3 && strcmp(argv[1], "serve") == 0) serve(argc, argv);
    if (argc == 7 && strcmp(argv[1], "load") == 0) {
        load(argv);
        return 0;
    }
    fputs("usage: echo serve PORT-FILE [CERTIFICATE KEY] | echo load PORT SECONDS DEPTH BYTES tls|clear\n", stderr);
    return 64;
}
