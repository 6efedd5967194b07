/* Teams of threads for parallel regions: never more than can be had. */
#ifndef FASTADAM_TEAMS_H
#define FASTADAM_TEAMS_H

#include <stdint.h>

/* Whether threads are made here, so that it matters how many can be had. */
#if defined(_OPENMP) && !defined(_WIN32)
#define FASTADAM_HAS_TEAMS 1
#else
#define FASTADAM_HAS_TEAMS 0
#endif

/* The threads that the parallel regions of one thread run on, itself among them. */
typedef struct fastadam_team fastadam_team;

/* The calling thread's team; NULL where there is no memory for one, or FASTADAM_HAS_TEAMS is 0. */
fastadam_team *fastadam_own_team(void);

/* How many threads the calling thread's next region can ask for: as many as wanted, or fewer where the system
 * refuses to make more. OpenMP's runtimes end the process when a thread cannot be made. */
int fastadam_team_size(fastadam_team *team, int64_t wanted);

/* Called by each thread of a region: it belongs to the team from now on, until it ends. */
void fastadam_join_team(fastadam_team *team);

/* Note how many threads a region got that asked for as many. */
void fastadam_note_team(fastadam_team *team, int asked, int granted);

#endif
