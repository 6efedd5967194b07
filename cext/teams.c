/* Before a parallel region needs threads that are not there yet, as many are made and ended on trial. Only then is
 * OpenMP asked: its runtimes keep their threads from region to region, and end the process when one cannot be
 * made. */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* for syscall */
#endif
#include "teams.h"

#include <stddef.h>

#if FASTADAM_HAS_TEAMS

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum {
    MOST_ON_TRIAL = 512,
    SPARE = 2,         /* tried beyond those needed: a runtime needs some memory of its own, too */
    MOST_YIELDS = 1000 /* for each thread that has ended and is still counted */
};

/* Freed by the last of its threads that ends. asked and granted are those of the last region: threads beyond those
 * that it was granted may be counted still, but are about to end. */
struct fastadam_team {
    atomic_int threads;
    int asked, granted;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t team_of_thread;
static int has_key;
static size_t stack_size; /* of OpenMP's threads; 0 for the system's default */

static void leave(void *value)
{
    fastadam_team *team = value;
    if (atomic_fetch_sub(&team->threads, 1) == 1)
        free(team);
}

/* The stack size that OMP_STACKSIZE asks for: a number in units of K, or of B, K, M or G where that follows. */
static size_t stack_size_from_environment(void)
{
    const char *text = getenv("OMP_STACKSIZE");
    if (text == NULL)
        return 0;
    char *end;
    const unsigned long long number = strtoull(text, &end, 10);
    while (*end == ' ')
        end++;
    switch (*end | 0x20) { /* in lower case */
    case 'b':
        return (size_t)number;
    case 'm':
        return (size_t)number << 20;
    case 'g':
        return (size_t)number << 30;
    default:
        return (size_t)number << 10;
    }
}

static void prepare(void)
{
    has_key = pthread_key_create(&team_of_thread, leave) == 0;
    stack_size = stack_size_from_environment();
}

fastadam_team *fastadam_own_team(void)
{
    pthread_once(&once, prepare);
    if (!has_key)
        return NULL;
    fastadam_team *team = pthread_getspecific(team_of_thread);
    if (team == NULL) {
        team = calloc(1, sizeof *team);
        if (team == NULL)
            return NULL;
        atomic_init(&team->threads, 1);
        team->granted = 1;
        if (pthread_setspecific(team_of_thread, team) != 0) {
            free(team);
            return NULL;
        }
    }
    return team;
}

void fastadam_join_team(fastadam_team *team)
{
    if (pthread_getspecific(team_of_thread) == NULL && pthread_setspecific(team_of_thread, team) == 0)
        atomic_fetch_add(&team->threads, 1);
}

void fastadam_note_team(fastadam_team *team, int asked, int granted)
{
    team->asked = asked;
    team->granted = granted;
}

typedef struct {
    pthread_mutex_t gate; /* closed while threads are being made, so that all are there at once */
    atomic_int n_begun;
    long numbers[MOST_ON_TRIAL];
} trial;

static void *wait_at_gate(void *argument)
{
    trial *all = argument;
#ifdef __linux__
    all->numbers[atomic_fetch_add(&all->n_begun, 1)] = syscall(SYS_gettid);
#endif
    pthread_mutex_lock(&all->gate);
    pthread_mutex_unlock(&all->gate);
    return NULL;
}

/* A thread that was joined counts against limits for a little longer. */
static void wait_until_gone(const trial *all, int n)
{
#ifdef __linux__
    for (int i = 0; i < n; i++)
        for (int k = 0; k < MOST_YIELDS && syscall(SYS_tgkill, (long)getpid(), all->numbers[i], 0) == 0; k++)
            sched_yield();
#else
    (void)all;
    (void)n;
#endif
}

/* How many of n threads can be there at once, beside those that are. */
static int try_threads(int n)
{
    trial all;
    pthread_t made[MOST_ON_TRIAL];
    pthread_attr_t attributes;
    sigset_t every, before;
    int found = 0;
    if (n > MOST_ON_TRIAL)
        n = MOST_ON_TRIAL;
    if (pthread_attr_init(&attributes) != 0)
        return 0;
    if (stack_size != 0)
        (void)pthread_attr_setstacksize(&attributes, stack_size); /* else the default, as in OpenMP's runtimes */
    pthread_mutex_init(&all.gate, NULL);
    atomic_init(&all.n_begun, 0);
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before); /* signals are not for these threads */
    pthread_mutex_lock(&all.gate);
    while (found < n && pthread_create(&made[found], &attributes, wait_at_gate, &all) == 0)
        found++;
    pthread_mutex_unlock(&all.gate);
    for (int i = 0; i < found; i++)
        pthread_join(made[i], NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_mutex_destroy(&all.gate);
    pthread_attr_destroy(&attributes);
    wait_until_gone(&all, found);
    return found;
}

int fastadam_team_size(fastadam_team *team, int64_t wanted)
{
    const int counted = atomic_load(&team->threads);
    const int there = counted < team->granted ? counted : team->granted;
    const int needed = (wanted == team->asked ? team->granted : (int)wanted) - there;
    if (needed <= 0)
        return (int)wanted;
    const int found = try_threads(needed + SPARE);
    return found == needed + SPARE ? (int)wanted : there + found / 2;
}

#else

fastadam_team *fastadam_own_team(void) { return NULL; }

int fastadam_team_size(fastadam_team *team, int64_t wanted)
{
    (void)team;
    return (int)wanted;
}

void fastadam_join_team(fastadam_team *team) { (void)team; }

void fastadam_note_team(fastadam_team *team, int asked, int granted)
{
    (void)team;
    (void)asked;
    (void)granted;
}

#endif
