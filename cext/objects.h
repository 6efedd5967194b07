/* Python's objects and other memory by their addresses, and Python's stable interface. */
#ifndef FASTADAM_OBJECTS_H
#define FASTADAM_OBJECTS_H

#ifndef _MSC_VER
#include <pyconfig.h> /* says whether this Python is free-threaded; those have no stable interface */
#endif
#ifndef Py_GIL_DISABLED
#define Py_LIMITED_API 0x030A0000
#endif
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define OBJECT(address) ((PyObject *)(uintptr_t)(address))
#define MEMORY(TYPE, address) ((TYPE *)(uintptr_t)(address))
#define ADDRESS(pointer) ((int64_t)(uintptr_t)(pointer))

enum { WORD = 8 };

static inline int64_t read_word(int64_t address, int64_t offset)
{
    int64_t word;
    memcpy(&word, MEMORY(const char, address) + offset, sizeof word);
    return word;
}

/* Are these bytes, whole words, the same? Written out, as calls of memcmp would take most of the time. */
static inline int same_words(int64_t address, int64_t other, int64_t bytes)
{
    int64_t differ = 0;
    for (int64_t i = 0; i < bytes; i += WORD)
        differ |= read_word(address, i) ^ read_word(other, i);
    return differ == 0;
}

#endif
