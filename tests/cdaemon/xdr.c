/* XDR (RFC 4506), as much of it as is needed. */
#include <string.h>

#include "cdaemon.h"

void put(struct xdr *x, uint32_t value)
{
    unsigned char *to = x->data + x->length;
    to[0] = value >> 24, to[1] = value >> 16, to[2] = value >> 8, to[3] = value;
    x->length += 4;
}

void put_hyper(struct xdr *x, uint64_t value)
{
    put(x, value >> 32);
    put(x, value);
}

void put_opaque(struct xdr *x, const void *data, size_t length)
{
    put(x, length);
    memcpy(x->data + x->length, data, length);
    memset(x->data + x->length + length, 0, 3);
    x->length += (length + 3) / 4 * 4;
}

uint32_t get(struct xdr *x)
{
    const unsigned char *from = x->data + x->at;
    if (x->bad || x->length - x->at < 4) {
        x->bad = true;
        return 0;
    }
    x->at += 4;
    return (uint32_t)from[0] << 24 | from[1] << 16 | from[2] << 8 | from[3];
}

uint64_t get_hyper(struct xdr *x)
{
    uint64_t high = get(x);
    return high << 32 | get(x);
}

/* The bytes stay in the buffer. */
const unsigned char *get_opaque(struct xdr *x, size_t *length)
{
    size_t count = get(x);
    const unsigned char *data = x->data + x->at;
    if (x->bad || count > x->length - x->at) {
        x->bad = true;
        *length = 0;
        return x->data;
    }
    *length = count;
    x->at += (count + 3) / 4 * 4;
    return data;
}
