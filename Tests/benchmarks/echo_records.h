/* TLS 1.3 records by intel-ipsec-mb after a handshake by OpenSSL, as Sluice does it: for a bare echo that is tuned as well.
 *
 * AES-128-GCM only. Loopback and a benchmark only: whatever is unexpected ends the process. */
#include <intel-ipsec-mb.h>
#include <openssl/hmac.h>

enum { RECORD = 16 << 10, OVERHEAD = 22, ARRIVED = (256 << 10) + RECORD + OVERHEAD };

struct secrets {
    unsigned char client[32], server[32];
};

struct direction {
    struct gcm_key_data key __attribute__((aligned(64)));
    unsigned char iv[12];
    uint64_t sequence;
};

struct records {
    struct direction out, in;
    IMB_MGR *library;
    size_t start, end;
    unsigned char arrived[ARRIVED], sealed[(256 << 10) + 32 * OVERHEAD];
};

static void keep_secret(const SSL *ssl, const char *line) {
    struct secrets *secrets = SSL_get_app_data(ssl);
    const char *names[] = {"CLIENT_TRAFFIC_SECRET_0 ", "SERVER_TRAFFIC_SECRET_0 "};
    unsigned char *places[] = {secrets->client, secrets->server};
    for (int i = 0; i < 2; i++)
        if (strncmp(line, names[i], strlen(names[i])) == 0)
            for (int at = 0; at < 32; at++) sscanf(strrchr(line, ' ') + 1 + 2 * at, "%2hhx", places[i] + at);
}

/* HKDF-Expand-Label (RFC 8446 7.1), of one block. */
static void expand(const unsigned char *secret, const char *label, unsigned char *target, int count) {
    unsigned char info[64] = {0, (unsigned char)count, (unsigned char)(6 + strlen(label))}, block[32];
    int length = 3 + sprintf((char *)info + 3, "tls13 %s", label);
    info[length + 1] = 1;
    HMAC(EVP_sha256(), secret, 32, info, (size_t)length + 2, block, NULL);
    memcpy(target, block, (size_t)count);
}

static void set_key(struct records *records, struct direction *direction, const unsigned char *secret) {
    unsigned char key[16];
    expand(secret, "key", key, sizeof key);
    expand(secret, "iv", direction->iv, sizeof direction->iv);
    IMB_AES128_GCM_PRE(records->library, key, &direction->key);
}

static struct records *records_new(const struct secrets *secrets, int is_server) {
    void *memory = NULL;
    if (posix_memalign(&memory, 64, sizeof(struct records))) exit(1);
    struct records *records = memset(memory, 0, sizeof(struct records));
    records->library = alloc_mb_mgr(0);
    init_mb_mgr_auto(records->library, NULL);
    set_key(records, &records->out, is_server ? secrets->server : secrets->client);
    set_key(records, &records->in, is_server ? secrets->client : secrets->server);
    return records;
}

static void records_free(struct records *records) {
    if (records) free_mb_mgr(records->library);
    free(records);
}

static void nonce(struct direction *direction, unsigned char *target) {
    memcpy(target, direction->iv, 12);
    for (int i = 0; i < 8; i++) target[11 - i] ^= (unsigned char)(direction->sequence >> 8 * i);
    direction->sequence++;
}

/* Makes records of at most 256 KiB of plaintext; returns how many bytes they have. */
static size_t seal(struct records *records, const unsigned char *bytes, size_t count) {
    unsigned char *target = records->sealed, type = 23;
    for (size_t at = 0, part; at < count; at += part) {
        struct gcm_context_data state;
        unsigned char iv[12];
        part = count - at < RECORD ? count - at : RECORD;
        nonce(&records->out, iv);
        memcpy(target, (unsigned char[]){23, 3, 3, (unsigned char)((part + 17) >> 8), (unsigned char)(part + 17)}, 5);
        IMB_AES128_GCM_INIT(records->library, &records->out.key, &state, iv, target, 5);
        IMB_AES128_GCM_ENC_UPDATE(records->library, &records->out.key, &state, target + 5, bytes + at, part);
        IMB_AES128_GCM_ENC_UPDATE(records->library, &records->out.key, &state, target + 5 + part, &type, 1);
        IMB_AES128_GCM_ENC_FINALIZE(records->library, &records->out.key, &state, target + 6 + part, 16);
        target += part + OVERHEAD;
    }
    return (size_t)(target - records->sealed);
}

/* Opens the whole records that have arrived, as far as they fit; returns how many bytes of plaintext that are. */
static size_t open_arrived(struct records *records, unsigned char *target, size_t room) {
    size_t all = 0;
    while (records->end - records->start >= 5) {
        unsigned char *record = records->arrived + records->start, iv[12], tag[16];
        size_t body = (size_t)record[3] << 8 | record[4];
        if (record[0] != 23 || body < 17 || body > RECORD + 256) exit(1);
        if (records->end - records->start < 5 + body || body - 16 > room - all) break;
        nonce(&records->in, iv);
        struct gcm_context_data state;
        IMB_AES128_GCM_DEC(records->library, &records->in.key, &state, target + all, record + 5, body - 16, iv, record,
                           5, tag, 16);
        if (CRYPTO_memcmp(tag, record + 5 + body - 16, 16) != 0 || target[all + body - 17] != 23) exit(1);
        all += body - 17;
        records->start += 5 + body;
    }
    return all;
}

static size_t records_receive(struct records *records, int fd, unsigned char *bytes, size_t room) {
    for (;;) {
        size_t count = open_arrived(records, bytes, room);
        if (count > 0) return count;
        memmove(records->arrived, records->arrived + records->start, records->end - records->start);
        records->end -= records->start;
        records->start = 0;
        ssize_t got = recv(fd, records->arrived + records->end, sizeof records->arrived - records->end, 0);
        if (got <= 0) return 0;
        records->end += (size_t)got;
    }
}
