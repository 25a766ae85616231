// What Swift cannot import from OpenSSL 3.0: macros, typed stacks and unions. No logic lives here.
#ifndef SLUICE_COPENSSL_SHIM_H
#define SLUICE_COPENSSL_SHIM_H

#include <openssl/asn1.h>
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

// --- SSL_CTX and SSL ---

static const uint64_t sluice_ssl_options =
    SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE;

static inline int sluice_ctx_tls13_only(SSL_CTX *context) {
    return SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION)
        && SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION);
}

static inline void sluice_ctx_modes(SSL_CTX *context) {
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_NO_AUTO_CHAIN);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
}

static inline int sluice_ctx_groups(SSL_CTX *context, const char *groups) {
    return (int)SSL_CTX_set1_groups_list(context, groups);
}

static inline int sluice_ctx_client_signatures(SSL_CTX *context, const char *algorithms) {
    return (int)SSL_CTX_set1_client_sigalgs_list(context, algorithms);
}

static inline void sluice_ctx_max_cert_list(SSL_CTX *context, long bytes) {
    SSL_CTX_set_max_cert_list(context, bytes);
}

static inline int sluice_ctx_add_chain_certificate(SSL_CTX *context, X509 *certificate) {
    return (int)SSL_CTX_add1_chain_cert(context, certificate);
}

static inline int sluice_ssl_set_server_name(SSL *ssl, const char *name) {
    return (int)SSL_set_tlsext_host_name(ssl, name);
}

static inline int sluice_ssl_set_app_data(SSL *ssl, void *data) { return SSL_set_app_data(ssl, data); }
static inline void *sluice_ssl_app_data(const SSL *ssl) { return SSL_get_app_data(ssl); }

static inline int sluice_bio_type(int index) { return index | BIO_TYPE_SOURCE_SINK; }

// --- Typed stacks ---

static inline STACK_OF(X509) *sluice_x509_stack_new(void) { return sk_X509_new_null(); }
static inline void sluice_x509_stack_free(STACK_OF(X509) *stack) { sk_X509_free(stack); }
static inline int sluice_x509_stack_push(STACK_OF(X509) *stack, X509 *x) { return sk_X509_push(stack, x); }
static inline int sluice_x509_stack_count(const STACK_OF(X509) *stack) { return sk_X509_num(stack); }
static inline X509 *sluice_x509_stack_at(const STACK_OF(X509) *stack, int i) { return sk_X509_value(stack, i); }

static inline GENERAL_NAMES *sluice_names_new(void) { return sk_GENERAL_NAME_new_null(); }
static inline void sluice_names_free(GENERAL_NAMES *names) { GENERAL_NAMES_free(names); }
static inline int sluice_names_count(const GENERAL_NAMES *names) { return sk_GENERAL_NAME_num(names); }
static inline GENERAL_NAME *sluice_names_at(const GENERAL_NAMES *names, int i) {
    return sk_GENERAL_NAME_value(names, i);
}

// The text or bytes of a name of `type` (GEN_DNS, GEN_URI, GEN_IPADD), or NULL when it is of another type.
static inline ASN1_STRING *sluice_name_value(const GENERAL_NAME *name, int type) {
    if (name->type != type) return NULL;
    switch (type) {
    case GEN_DNS: return name->d.dNSName;
    case GEN_URI: return name->d.uniformResourceIdentifier;
    case GEN_IPADD: return name->d.iPAddress;
    default: return NULL;
    }
}

// Appends a name of `type`; the bytes are copied. 0 on failure.
static inline int sluice_names_add(GENERAL_NAMES *names, int type, const void *bytes, int count) {
    ASN1_STRING *value = ASN1_STRING_type_new(type == GEN_IPADD ? V_ASN1_OCTET_STRING : V_ASN1_IA5STRING);
    GENERAL_NAME *name = GENERAL_NAME_new();
    if (value == NULL || name == NULL || !ASN1_STRING_set(value, bytes, count)) goto failed;
    GENERAL_NAME_set0_value(name, type, value);
    value = NULL;
    if (sk_GENERAL_NAME_push(names, name) > 0) return 1;
failed:
    ASN1_STRING_free(value);
    GENERAL_NAME_free(name);
    return 0;
}

static inline int sluice_add_subject_alternative_names(X509 *certificate, GENERAL_NAMES *names) {
    return X509_add1_ext_i2d(certificate, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT);
}
static inline GENERAL_NAMES *sluice_subject_alternative_names(X509 *certificate) {
    return (GENERAL_NAMES *)X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
}

// --- BIO, EVP ---

static inline void sluice_free(void *memory) { OPENSSL_free(memory); }

// BIO_FLAGS_ that a read without data sets, and that every read clears first.
static const int sluice_bio_wants_read = BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY;
static const int sluice_bio_retry_flags = BIO_FLAGS_RWS | BIO_FLAGS_SHOULD_RETRY;

static inline long sluice_bio_memory(BIO *bio, char **bytes) { return BIO_get_mem_data(bio, bytes); }

static inline EVP_PKEY *sluice_generate_p256(void) { return EVP_EC_gen("P-256"); }
static inline EVP_PKEY *sluice_generate_ed25519(void) {
    return EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
}

static inline void sluice_x509v3_context(X509V3_CTX *context, X509 *issuer, X509 *subject) {
    X509V3_set_ctx(context, issuer, subject, NULL, NULL, 0);
    X509V3_set_ctx_nodb(context);
}

#endif
