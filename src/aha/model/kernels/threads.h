/* A small pool of threads: parallel_for(task, context, count, threads) runs task(context, 0..count-1).
 *
 * Tasks are handed out one by one, so a thread that the system has put aside holds up one task and
 * not its whole share. Waiting threads spin for some microseconds and then sleep, so that other
 * programs get the processor. A task that calls parallel_for runs it alone. */

#include <stdatomic.h>
#include <stdint.h>

#ifdef _WIN32
#include <windows.h>
typedef SRWLOCK mutex;
typedef CONDITION_VARIABLE condition;
#define MUTEX_INIT SRWLOCK_INIT
#define CONDITION_INIT CONDITION_VARIABLE_INIT
static void lock(mutex *m) { AcquireSRWLockExclusive(m); }
static void unlock(mutex *m) { ReleaseSRWLockExclusive(m); }
static void wait_for(condition *c, mutex *m) { SleepConditionVariableSRW(c, m, INFINITE, 0); }
static void wake_all(condition *c) { WakeAllConditionVariable(c); }
#else
#include <pthread.h>
#include <signal.h>
typedef pthread_mutex_t mutex;
typedef pthread_cond_t condition;
#define MUTEX_INIT PTHREAD_MUTEX_INITIALIZER
#define CONDITION_INIT PTHREAD_COND_INITIALIZER
static void lock(mutex *m) { pthread_mutex_lock(m); }
static void unlock(mutex *m) { pthread_mutex_unlock(m); }
static void wait_for(condition *c, mutex *m) { pthread_cond_wait(c, m); }
static void wake_all(condition *c) { pthread_cond_broadcast(c); }
#endif

#define MOST_THREADS 256
#define SPINS 500 /* of some twenty nanoseconds each: longer than the gap between two products */

typedef void (*task_function)(void *context, int64_t index);

/* Everything but the atomics is read and written under `guard`. */
static struct {
    mutex guard;
    condition begun, ended;
    task_function task;
    void *context;
    int64_t count;
    _Atomic int64_t next;    /* the first task that nobody has taken */
    _Atomic uint64_t number; /* of the job; a change wakes workers that spin */
    _Atomic int working;     /* workers inside the job */
    int places;              /* workers that may still join the job */
    int workers, sleeping;
    int busy;                /* a job is under way */
} pool = {MUTEX_INIT, CONDITION_INIT, CONDITION_INIT};

static _Thread_local int inside_task;

static inline void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void take_tasks(task_function task, void *context, int64_t count) {
    inside_task = 1;
    for (;;) {
        int64_t index = atomic_fetch_add(&pool.next, 1);
        if (index >= count) break;
        task(context, index);
    }
    inside_task = 0;
}

static void work_for_ever(void) {
    uint64_t seen = 0;
    for (;;) {
        for (int i = 0; i < SPINS && atomic_load(&pool.number) == seen; i++) pause_briefly();
        lock(&pool.guard);
        while (atomic_load(&pool.number) == seen) {
            pool.sleeping++;
            wait_for(&pool.begun, &pool.guard);
            pool.sleeping--;
        }
        seen = atomic_load(&pool.number);
        if (pool.places == 0) {
            unlock(&pool.guard);
            continue;
        }
        pool.places--;
        atomic_fetch_add(&pool.working, 1);
        task_function task = pool.task;
        void *context = pool.context;
        int64_t count = pool.count;
        unlock(&pool.guard);
        take_tasks(task, context, count);
        lock(&pool.guard);
        if (atomic_fetch_sub(&pool.working, 1) == 1) wake_all(&pool.ended);
        unlock(&pool.guard);
    }
}

#ifdef _WIN32
static DWORD WINAPI worker(LPVOID unused) {
    (void)unused;
    work_for_ever();
    return 0;
}
static int start_worker(void) {
    HANDLE thread = CreateThread(NULL, 0, worker, NULL, 0, NULL);
    if (thread) CloseHandle(thread);
    return thread != NULL;
}
#else
/* A forked process has no workers, and its copy of the lock may be held. */
static void begin_anew(void) {
    mutex guard = MUTEX_INIT;
    condition condition_none = CONDITION_INIT;
    pool.guard = guard;
    pool.begun = pool.ended = condition_none;
    pool.workers = pool.sleeping = pool.busy = pool.places = 0;
    atomic_store(&pool.working, 0);
}
__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(0, 0, begin_anew); }

static void *worker(void *unused) {
    (void)unused;
    work_for_ever();
    return 0;
}
static int start_worker(void) {
    /* Signals are for Python's thread. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    int started = pthread_create(&thread, 0, worker, 0) == 0;
    pthread_sigmask(SIG_SETMASK, &before, 0);
    if (started) pthread_detach(thread);
    return started;
}
#endif

static void run_alone(task_function task, void *context, int64_t count) {
    for (int64_t index = 0; index < count; index++) task(context, index);
}

static void parallel_for(task_function task, void *context, int64_t count, int64_t threads) {
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    if (threads > count) threads = count;
    if (threads < 2 || inside_task) {
        run_alone(task, context, count);
        return;
    }
    lock(&pool.guard);
    if (pool.busy) { /* another Python thread computes */
        unlock(&pool.guard);
        run_alone(task, context, count);
        return;
    }
    while (pool.workers < threads - 1 && start_worker()) pool.workers++;
    pool.busy = 1;
    pool.task = task;
    pool.context = context;
    pool.count = count;
    pool.places = (int)threads - 1;
    atomic_store(&pool.next, 0);
    atomic_fetch_add(&pool.number, 1);
    if (pool.sleeping) wake_all(&pool.begun);
    unlock(&pool.guard);
    take_tasks(task, context, count);
    for (int i = 0; i < SPINS && atomic_load(&pool.working); i++) pause_briefly();
    lock(&pool.guard);
    pool.places = 0; /* do not wait for workers that have not joined by now */
    while (atomic_load(&pool.working)) wait_for(&pool.ended, &pool.guard);
    pool.busy = 0;
    unlock(&pool.guard);
}
