/* Gradients in nested containers, and the containers of parameters. structs.h has what is known of a nesting. */
#ifndef FASTADAM_NESTED_H
#define FASTADAM_NESTED_H

#include <stdint.h>

#include "structs.h"

/* Read the leaves of containers that are nested as these are: grads is the address of the outermost, found that of
 * a list of one item, which becomes a tuple of the leaves, with None for those in the place of whose container is
 * None. Returns 1 then; 0 if Python has to look: something is nested otherwise, or is no exact dict, list or
 * tuple. Runs no code of anyone's. */
int64_t fastadam_read_nested(const fastadam_nesting *nesting, int64_t grads, int64_t found);

/* Are the n words at these addresses what they were? They are parts of dicts and lists, looked at in their order:
 * those before one say that it is still there. Runs no code of anyone's. */
int64_t fastadam_same_words(const int64_t *addresses, const int64_t *words, int64_t n);

#endif
