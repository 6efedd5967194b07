/* Reads gradients that lie in nested containers.
 *
 * No code of anyone's runs meanwhile: containers are exact dicts with strings as keys, exact lists, and tuples,
 * whose items are taken from where they lie. So what is borrowed from them stays, while Python's lock is held. */
#include "objects.h"

#include "fetch.h"
#include "nested.h"

/* How far from where it was a key is looked for. */
enum { AHEAD = 16 };

/* A nesting that is being read: what has been found is kept in its memory, not in nested calls. */
typedef struct {
    const fastadam_nesting *nesting;
    int64_t n_pending;
} reading;

/* Note an item. What it is has to be read from memory soon, and there may be thousands, so that is fetched. */
static void take(reading *now, int64_t child, PyObject *item)
{
    FETCH(item);
    if (child >= 0) {
        MEMORY(int64_t, now->nesting->leaves)[child] = ADDRESS(item);
    } else if (item != Py_None) { /* else its leaves stay None */
        fastadam_pending *next = MEMORY(fastadam_pending, now->nesting->pending) + now->n_pending++;
        next->object = ADDRESS(item);
        next->number = ~child;
    }
}

static int read_sequence(reading *now, const fastadam_container *container, const int64_t *children,
                         PyObject *object)
{
    const int is_list = PyList_CheckExact(object);
    if (!is_list && !PyTuple_CheckExact(object) && ADDRESS(Py_TYPE(object)) != container->tuple_type)
        return 0;
    if ((is_list ? PyList_Size(object) : PyTuple_Size(object)) != container->n)
        return 0;
    for (int64_t i = 0; i < container->n; i++) {
        const Py_ssize_t at = (Py_ssize_t)i;
        take(now, children[i], is_list ? PyList_GetItem(object, at) : PyTuple_GetItem(object, at));
    }
    return 1;
}

/* Are two keys the same string? Of others, only the same object is the same. */
static int is_same(PyObject *key, PyObject *other)
{
    return key == other || (PyUnicode_CheckExact(key) && PyUnicode_Compare(key, other) == 0);
}

/* Are all keys strings? Then looking one up compares no others. */
static int has_string_keys(PyObject *dict)
{
    PyObject *key, *value;
    Py_ssize_t position = 0;
    while (PyDict_Next(dict, &position, &key, &value))
        if (!PyUnicode_CheckExact(key))
            return 0;
    return 1;
}

static void swap(int64_t *numbers, int64_t i, int64_t j)
{
    const int64_t number = numbers[i];
    numbers[i] = numbers[j];
    numbers[j] = number;
}

static int read_mapping(reading *now, const fastadam_container *container, int64_t *children, int64_t *keys,
                        PyObject *object)
{
    const int64_t n = container->n;
    if (!PyDict_CheckExact(object) || PyDict_Size(object) != n)
        return 0;
    PyObject *key, *value;
    Py_ssize_t position = 0;
    int64_t i = 0;
    /* The next dict will mostly have the keys in the same order as this one, so that order is kept. */
    for (; i < n && PyDict_Next(object, &position, &key, &value); i++) {
        int64_t j = i;
        while (j < n && j <= i + AHEAD && !is_same(key, OBJECT(keys[j])))
            j++;
        if (j == n || j > i + AHEAD)
            break;
        if (j != i) {
            swap(keys, i, j);
            swap(children, i, j);
        }
        take(now, children[i], value);
    }
    if (i < n && !has_string_keys(object))
        return 0;
    for (; i < n; i++) {
        value = PyDict_GetItemWithError(object, OBJECT(keys[i]));
        if (value == NULL)
            return 0;
        take(now, children[i], value);
    }
    return 1;
}

static int read_all(reading *now, PyObject *grads)
{
    const fastadam_nesting *nesting = now->nesting;
    const fastadam_container *containers = MEMORY(const fastadam_container, nesting->containers);
    const fastadam_pending *pending = MEMORY(const fastadam_pending, nesting->pending);
    int good = 1;
    for (int64_t i = 0; i < nesting->n; i++)
        MEMORY(int64_t, nesting->leaves)[i] = ADDRESS(Py_None);
    take(now, ~(int64_t)0, grads);
    for (int64_t done = 0; good && done < now->n_pending; done++) {
        const fastadam_container *container = containers + pending[done].number;
        int64_t *children = MEMORY(int64_t, nesting->children) + container->first;
        int64_t *keys = MEMORY(int64_t, nesting->keys) + container->first;
        PyObject *object = OBJECT(pending[done].object);
        good = container->is_mapping ? read_mapping(now, container, children, keys, object)
                                     : read_sequence(now, container, children, object);
    }
    return good;
}

int64_t fastadam_read_nested(const fastadam_nesting *nesting, int64_t grads, int64_t found)
{
    const PyGILState_STATE gil = PyGILState_Ensure();
    /* Made first: making it may start a collection of garbage, which runs anyone's finalizers. */
    PyObject *tuple = PyTuple_New((Py_ssize_t)nesting->n);
    const int64_t *leaves = MEMORY(const int64_t, nesting->leaves);
    reading now = {nesting, 0};
    int good = tuple != NULL && read_all(&now, OBJECT(grads));
    for (int64_t i = 0; good && i < nesting->n; i++) {
        Py_IncRef(OBJECT(leaves[i]));
        good = PyTuple_SetItem(tuple, (Py_ssize_t)i, OBJECT(leaves[i])) == 0;
    }
    if (good)
        good = PyList_SetItem(OBJECT(found), 0, tuple) == 0;
    else
        Py_XDECREF(tuple);
    PyErr_Clear();
    PyGILState_Release(gil);
    return good;
}

int64_t fastadam_same_words(const int64_t *addresses, const int64_t *words, int64_t n)
{
    const PyGILState_STATE gil = PyGILState_Ensure(); /* nobody changes a dict or list meanwhile */
    int64_t i = 0;
    while (i < n && *MEMORY(const int64_t, addresses[i]) == words[i])
        i++;
    PyGILState_Release(gil);
    return i == n;
}
