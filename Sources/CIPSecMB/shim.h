// What Swift cannot import from intel-ipsec-mb: function-like macros. One record is one call from Swift.
#ifndef SLUICE_CIPSECMB_SHIM_H
#define SLUICE_CIPSECMB_SHIM_H

#include <intel-ipsec-mb.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/uio.h>

// The library's functions for this CPU; NULL where it has no instructions for AES and GHASH, since the library's
// emulation of them is slow.
static inline IMB_MGR *sluice_imb_new(void) {
    const uint64_t needed = IMB_FEATURE_AESNI | IMB_FEATURE_PCLMULQDQ;
    IMB_MGR *library = alloc_mb_mgr(0);
    if (library == NULL) return NULL;
    init_mb_mgr_auto(library, NULL);
    if (imb_get_errno(library) == 0 && (library->features & needed) == needed) return library;
    free_mb_mgr(library);
    return NULL;
}

static inline struct gcm_key_data *sluice_gcm_keys_new(void) {
    void *keys = NULL;
    return posix_memalign(&keys, 64, sizeof(struct gcm_key_data)) == 0 ? keys : NULL;
}

static inline void sluice_gcm_keys_free(struct gcm_key_data *keys) {
    if (keys) imb_clear_mem(keys, sizeof *keys);
    free(keys);
}

static inline void sluice_gcm_set_key(
    IMB_MGR *library, int is_256, const uint8_t *key, struct gcm_key_data *keys) {
    if (is_256) IMB_AES256_GCM_PRE(library, key, keys);
    else IMB_AES128_GCM_PRE(library, key, keys);
}

// Encrypts the bytes of all pieces, `count` together, and then the byte `type` to `body`, with the tag behind them.
static inline void sluice_gcm_seal(
    IMB_MGR *library, int is_256, const struct gcm_key_data *keys, const uint8_t *nonce, const uint8_t *header,
    uint64_t header_bytes, const struct iovec *pieces, uint64_t piece_count, uint64_t count, uint8_t type,
    uint8_t *body) {
    struct gcm_context_data state;
    uint8_t *target = body;
    if (is_256) {
        IMB_AES256_GCM_INIT(library, keys, &state, nonce, header, header_bytes);
        for (uint64_t i = 0; i < piece_count; target += pieces[i].iov_len, i++)
            IMB_AES256_GCM_ENC_UPDATE(library, keys, &state, target, pieces[i].iov_base, pieces[i].iov_len);
        IMB_AES256_GCM_ENC_UPDATE(library, keys, &state, target, &type, 1);
        IMB_AES256_GCM_ENC_FINALIZE(library, keys, &state, body + count + 1, 16);
    } else {
        IMB_AES128_GCM_INIT(library, keys, &state, nonce, header, header_bytes);
        for (uint64_t i = 0; i < piece_count; target += pieces[i].iov_len, i++)
            IMB_AES128_GCM_ENC_UPDATE(library, keys, &state, target, pieces[i].iov_base, pieces[i].iov_len);
        IMB_AES128_GCM_ENC_UPDATE(library, keys, &state, target, &type, 1);
        IMB_AES128_GCM_ENC_FINALIZE(library, keys, &state, body + count + 1, 16);
    }
}

// Decrypts the first bytes of `body` to `first` and the others to `second`; writes the 16 bytes that the tag has to be.
static inline void sluice_gcm_open(
    IMB_MGR *library, int is_256, const struct gcm_key_data *keys, const uint8_t *nonce, const uint8_t *header,
    uint64_t header_bytes, const uint8_t *body, uint8_t *first, uint64_t first_count, uint8_t *second,
    uint64_t second_count, uint8_t *tag) {
    struct gcm_context_data state;
    if (is_256) {
        IMB_AES256_GCM_INIT(library, keys, &state, nonce, header, header_bytes);
        if (first_count) IMB_AES256_GCM_DEC_UPDATE(library, keys, &state, first, body, first_count);
        if (second_count) IMB_AES256_GCM_DEC_UPDATE(library, keys, &state, second, body + first_count, second_count);
        IMB_AES256_GCM_DEC_FINALIZE(library, keys, &state, tag, 16);
    } else {
        IMB_AES128_GCM_INIT(library, keys, &state, nonce, header, header_bytes);
        if (first_count) IMB_AES128_GCM_DEC_UPDATE(library, keys, &state, first, body, first_count);
        if (second_count) IMB_AES128_GCM_DEC_UPDATE(library, keys, &state, second, body + first_count, second_count);
        IMB_AES128_GCM_DEC_FINALIZE(library, keys, &state, tag, 16);
    }
}

#endif
