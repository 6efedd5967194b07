/* Fetching what will be read into the cache, ahead of time. */
#ifndef FASTADAM_FETCH_H
#define FASTADAM_FETCH_H

#include <stdint.h>

#ifdef __GNUC__
#define FETCH(address) __builtin_prefetch((const void *)(uintptr_t)(address))
#else
#define FETCH(address) ((void)(address))
#endif

#endif
