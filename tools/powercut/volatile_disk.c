/* Disks with a volatile write cache and a power switch, as an nbdkit plugin.
 *
 *     nbdkit -f -U SOCKET ./volatile_disk.so disk=PATH [disk=PATH]... [seed=N] [lie=N]
 *
 * Each PATH is one disk, exported under its base name; the file is its medium. What is written
 * stays in memory, sector by sector, until a FLUSH or FUA puts it onto the medium. All disks hang
 * on one switch, the export "switch", which takes one word per write at offset 0:
 *
 *     cut    the power fails. Of the sectors in memory a random subset reaches the media, the rest
 *            is gone. Requests in flight, and new ones, hang: a machine that lost its power gets no
 *            answer.
 *     drain  whoever hung is told EIO, and so is every new request. For the time in which the
 *            processes of the dead machine are cleared away.
 *     on     the disks are back, with what their media hold.
 *
 * Reading the switch tells, as text, what the last cut did.
 *
 * What makes it a hard judge, within what real disks may do:
 *   * a FLUSH takes a while, and covers only writes that were acknowledged before it began;
 *   * an overwritten sector may or may not have reached the medium in between;
 *   * a full cache destages on its own, in no useful order;
 *   * a TRIM takes effect at once, and what it leaves behind is garbage here and there;
 *   * with lie=N, FLUSH and FUA forget one sector in N for as long as it is not written again: the
 *     disk that a checker has to catch.
 *
 * The host's page cache stands for the medium: the machine that runs the test does not lose power.
 */

#define NBDKIT_API_VERSION 2
#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nbdkit-plugin.h>

enum {
    SECTOR = 512,
    BUCKETS = 1 << 14,
    MAX_DISKS = 16,
    /* Sectors one disk keeps in memory before it destages by itself: 16 MiB. */
    CACHE_SECTORS = 1 << 15,
    SWITCH_BYTES = 512,
};

/* A sector written and not yet on the medium. */
struct cached {
    struct cached *next;
    uint64_t sector;
    /* The disk's count of flushes begun when this was written: a flush covers what is older. */
    uint64_t age;
    /* No flush takes it to the medium: a lying disk only. */
    bool forgotten;
    unsigned char bytes[SECTOR];
};

struct disk {
    char *path;
    const char *name;
    int medium;
    int64_t size;
    uint64_t flushes;
    uint64_t cached_count;
    unsigned destage_cursor;
    struct cached *buckets[BUCKETS];
};

static struct disk disks[MAX_DISKS];
static unsigned disk_count;
static uint64_t lie;

/* Everything below, and all disks, are under this lock: a cut is one instant for all of them. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t power_changed = PTHREAD_COND_INITIALIZER;
static enum { POWER_ON, POWER_CUT, POWER_DRAINING } power = POWER_ON;
/* Grows at each cut: a request that saw another number belongs to a machine that is gone. */
static uint64_t cuts;
static uint64_t dice_state = 1;
static char cut_report[SWITCH_BYTES];

/* xorshift64*; a state of zero would stay there, so seeds are mixed in. */
static uint64_t roll(uint64_t sides) {
    dice_state ^= dice_state >> 12;
    dice_state ^= dice_state << 25;
    dice_state ^= dice_state >> 27;
    return ((dice_state * 0x2545F4914F6CDD1Dull) >> 33) % sides;
}

static bool lies_now(void) { return lie > 0 && roll(lie) == 0; }

/* ------------------------------------------------------------------ the cache, under the lock */

static struct cached **bucket_of(struct disk *disk, uint64_t sector) {
    return &disk->buckets[(sector * 0x9E3779B97F4A7C15ull) >> 50 & (BUCKETS - 1)];
}

static struct cached *find(struct disk *disk, uint64_t sector) {
    struct cached *entry = *bucket_of(disk, sector);
    while (entry != NULL && entry->sector != sector) entry = entry->next;
    return entry;
}

static int put_on_medium(struct disk *disk, uint64_t sector, const unsigned char *bytes) {
    return pwrite(disk->medium, bytes, SECTOR, (off_t)(sector * SECTOR)) == SECTOR ? 0 : -1;
}

static void drop(struct disk *disk, struct cached **link) {
    struct cached *entry = *link;
    *link = entry->next;
    free(entry);
    disk->cached_count--;
}

/* Puts everything in one bucket that is at most as old as `age` onto the medium. */
static int destage_bucket(struct disk *disk, unsigned bucket, uint64_t age) {
    struct cached **link = &disk->buckets[bucket];
    while (*link != NULL) {
        if ((*link)->age <= age && lies_now()) (*link)->forgotten = true;
        if ((*link)->age > age || (*link)->forgotten) {
            link = &(*link)->next;
            continue;
        }
        if (put_on_medium(disk, (*link)->sector, (*link)->bytes) == -1) return -1;
        drop(disk, link);
    }
    return 0;
}

/* A full cache destages, a sixteenth of its buckets at a time; also what was forgotten. */
static int make_room(struct disk *disk) {
    for (unsigned step = 0; step < BUCKETS / 16; step++) {
        disk->destage_cursor = (disk->destage_cursor + 1) % BUCKETS;
        struct cached **bucket = &disk->buckets[disk->destage_cursor];
        while (*bucket != NULL) {
            if (put_on_medium(disk, (*bucket)->sector, (*bucket)->bytes) == -1) return -1;
            drop(disk, bucket);
        }
    }
    return 0;
}

static int keep(struct disk *disk, uint64_t sector, const unsigned char *bytes) {
    struct cached *entry = find(disk, sector);
    if (entry == NULL) {
        if (disk->cached_count >= CACHE_SECTORS && make_room(disk) == -1) return -1;
        struct cached **bucket = bucket_of(disk, sector);
        entry = malloc(sizeof *entry);
        if (entry == NULL) return -1;
        entry->sector = sector;
        entry->next = *bucket;
        *bucket = entry;
        disk->cached_count++;
    } else if ((entry->age < disk->flushes && lie == 0) || roll(2) == 0) {
        /* The older version reaches the medium by chance, and for certain when a flush that has
         * begun owes it. */
        if (put_on_medium(disk, sector, entry->bytes) == -1) return -1;
    }
    entry->age = disk->flushes;
    entry->forgotten = false;
    memcpy(entry->bytes, bytes, SECTOR);
    return 0;
}

static void forget_range(struct disk *disk, uint64_t first, uint64_t count) {
    for (unsigned bucket = 0; bucket < BUCKETS; bucket++) {
        struct cached **link = &disk->buckets[bucket];
        while (*link != NULL) {
            if ((*link)->sector - first < count) drop(disk, link);
            else link = &(*link)->next;
        }
    }
}

/* ------------------------------------------------------------------ the switch, under the lock */

static void cut_power(void) {
    /* Nothing, some, half or nearly all of a cache survives; each disk has its own luck. */
    static const uint64_t chances[] = {0, 1, 4, 7};
    size_t used = 0;
    for (unsigned index = 0; index < disk_count; index++) {
        struct disk *disk = &disks[index];
        uint64_t chance = chances[roll(4)], kept = 0, lost = 0;
        for (unsigned bucket = 0; bucket < BUCKETS; bucket++) {
            struct cached *entry;
            while ((entry = disk->buckets[bucket]) != NULL) {
                if (roll(8) < chance && put_on_medium(disk, entry->sector, entry->bytes) == 0)
                    kept++;
                else lost++;
                drop(disk, &disk->buckets[bucket]);
            }
        }
        int written = snprintf(cut_report + used, sizeof cut_report - used,
                               "%s kept %llu lost %llu\n", disk->name, (unsigned long long)kept,
                               (unsigned long long)lost);
        if (written > 0 && used + (size_t)written < sizeof cut_report) used += (size_t)written;
    }
    power = POWER_CUT;
    cuts++;
}

static int turn_switch(const char *word) {
    if (strcmp(word, "cut") == 0 && power == POWER_ON) {
        memset(cut_report, 0, sizeof cut_report);
        cut_power();
    } else if (strcmp(word, "drain") == 0 && power == POWER_CUT) power = POWER_DRAINING;
    else if (strcmp(word, "on") == 0 && power == POWER_DRAINING) power = POWER_ON;
    else return -1;
    pthread_cond_broadcast(&power_changed);
    return 0;
}

/* Takes the lock for a request that began under `*seen_cuts` (0: it begins now). Returns -1, with
 * the lock released, when the power has failed since: after hanging as long as it is cut. */
static int enter(uint64_t *seen_cuts) {
    pthread_mutex_lock(&lock);
    if (*seen_cuts == 0) *seen_cuts = cuts + 1;
    bool failed = power != POWER_ON || *seen_cuts != cuts + 1;
    while (power == POWER_CUT) pthread_cond_wait(&power_changed, &lock);
    if (!failed) return 0;
    pthread_mutex_unlock(&lock);
    nbdkit_set_error(EIO);
    return -1;
}

static int leave(int result) {
    int problem = errno;
    pthread_mutex_unlock(&lock);
    if (result == -1) nbdkit_set_error(problem);
    return result;
}

/* Time passes outside the lock. Then whoever lost the power in the meantime is told so. */
static int take_time(unsigned microseconds, uint64_t *seen_cuts) {
    if (microseconds > 0) nbdkit_nanosleep(0, microseconds * 1000);
    if (enter(seen_cuts) == -1) return -1;
    return leave(0);
}

/* ------------------------------------------------------------------ the plugin */

static int volatile_config(const char *key, const char *value) {
    if (strcmp(key, "disk") == 0) {
        if (disk_count == MAX_DISKS) {
            nbdkit_error("more than %d disks", MAX_DISKS);
            return -1;
        }
        struct disk *disk = &disks[disk_count];
        disk->path = nbdkit_absolute_path(value);
        if (disk->path == NULL) return -1;
        disk->name = strrchr(disk->path, '/') + 1;
        disk_count++;
        return 0;
    }
    if (strcmp(key, "seed") == 0) {
        uint64_t seed;
        if (nbdkit_parse_uint64_t("seed", value, &seed) == -1) return -1;
        dice_state = seed * 0x9E3779B97F4A7C15ull | 1;
        return 0;
    }
    if (strcmp(key, "lie") == 0) return nbdkit_parse_uint64_t("lie", value, &lie);
    nbdkit_error("unknown parameter '%s'", key);
    return -1;
}

static int volatile_get_ready(void) {
    for (unsigned index = 0; index < disk_count; index++) {
        struct disk *disk = &disks[index];
        struct stat status;
        disk->medium = open(disk->path, O_RDWR | O_CLOEXEC);
        if (disk->medium == -1 || fstat(disk->medium, &status) == -1) {
            nbdkit_error("%s: %m", disk->path);
            return -1;
        }
        disk->size = status.st_size / SECTOR * SECTOR;
    }
    return 0;
}

/* A connection's handle is its disk, or the switch itself. */
static void *volatile_open(int read_only) {
    const char *name = nbdkit_export_name();
    (void)read_only;
    if (name != NULL && strcmp(name, "switch") == 0) return &power;
    for (unsigned index = 0; name != NULL && index < disk_count; index++)
        if (strcmp(disks[index].name, name) == 0) return &disks[index];
    nbdkit_error("no disk of this name");
    return NULL;
}

static int64_t volatile_get_size(void *handle) {
    return handle == &power ? SWITCH_BYTES : ((struct disk *)handle)->size;
}

static int volatile_block_size(void *handle, uint32_t *minimum, uint32_t *preferred,
                               uint32_t *maximum) {
    (void)handle;
    *minimum = SECTOR;
    *preferred = 4096;
    *maximum = 32 << 20;
    return 0;
}

static int answer_yes(void *handle) {
    (void)handle;
    return 1;
}

static int native_fua(void *handle) {
    (void)handle;
    return NBDKIT_FUA_NATIVE;
}

static int volatile_pread(void *handle, void *buffer, uint32_t count, uint64_t offset,
                          uint32_t flags) {
    (void)flags;
    if (handle == &power) {
        pthread_mutex_lock(&lock);
        memcpy(buffer, cut_report + offset, count);
        return leave(0);
    }
    struct disk *disk = handle;
    uint64_t seen_cuts = 0;
    if (enter(&seen_cuts) == -1) return -1;
    if (pread(disk->medium, buffer, count, (off_t)offset) != (ssize_t)count) {
        errno = EIO;
        return leave(-1);
    }
    for (uint32_t at = 0; at < count; at += SECTOR) {
        struct cached *entry = find(disk, (offset + at) / SECTOR);
        if (entry != NULL) memcpy((char *)buffer + at, entry->bytes, SECTOR);
    }
    return leave(0);
}

static int flush_disk(struct disk *disk, uint64_t *seen_cuts) {
    if (enter(seen_cuts) == -1) return -1;
    uint64_t covered = disk->flushes++;
    unsigned microseconds = (unsigned)roll(1500);
    leave(0);
    if (take_time(microseconds, seen_cuts) == -1 || enter(seen_cuts) == -1) return -1;
    int result = 0;
    for (unsigned bucket = 0; bucket < BUCKETS && result == 0; bucket++)
        result = destage_bucket(disk, bucket, covered);
    return leave(result);
}

static int volatile_flush(void *handle, uint32_t flags) {
    uint64_t seen_cuts = 0;
    (void)flags;
    return handle == &power ? 0 : flush_disk(handle, &seen_cuts);
}

/* With FUA a sector is on the medium and stays cached as well: the same bytes twice. */
static int write_sectors(struct disk *disk, const unsigned char *bytes, uint32_t count,
                         uint64_t offset, uint32_t flags) {
    static const unsigned char zeroes[SECTOR];
    uint64_t seen_cuts = 0;
    if (enter(&seen_cuts) == -1) return -1;
    int result = 0;
    bool through = (flags & NBDKIT_FLAG_FUA) != 0;
    for (uint32_t at = 0; at < count && result == 0; at += SECTOR) {
        uint64_t sector = (offset + at) / SECTOR;
        const unsigned char *source = bytes != NULL ? bytes + at : zeroes;
        result = keep(disk, sector, source);
        if (result == 0 && through && !lies_now()) result = put_on_medium(disk, sector, source);
    }
    unsigned microseconds = roll(8) == 0 ? (unsigned)roll(800) : 0;
    if (leave(result) == -1) return -1;
    return take_time(microseconds, &seen_cuts);
}

static int volatile_pwrite(void *handle, const void *buffer, uint32_t count, uint64_t offset,
                           uint32_t flags) {
    if (handle != &power) return write_sectors(handle, buffer, count, offset, flags);
    char word[16] = {0};
    memcpy(word, buffer, count < sizeof word - 1 ? count : sizeof word - 1);
    pthread_mutex_lock(&lock);
    int result = offset == 0 ? turn_switch(word) : -1;
    errno = EINVAL;
    return leave(result);
}

static int volatile_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags) {
    if (handle == &power || count > 4u << 20) {
        /* nbdkit then writes zeroes itself, in pieces. */
        nbdkit_set_error(EOPNOTSUPP);
        return -1;
    }
    return write_sectors(handle, NULL, count, offset, flags);
}

/* Takes effect at once. Garbage lies in a few of the sectors then, the rest reads as zeroes. */
static int volatile_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags) {
    struct disk *disk = handle;
    uint64_t seen_cuts = 0;
    unsigned char garbage[SECTOR];
    (void)flags;
    if (handle == &power) return 0;
    if (enter(&seen_cuts) == -1) return -1;
    forget_range(disk, offset / SECTOR, count / SECTOR);
    int result = fallocate(disk->medium, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                           (off_t)offset, (off_t)count);
    memset(garbage, 0xdb, sizeof garbage);
    for (unsigned piece = 0; piece < 16 && count >= SECTOR && result == 0; piece++)
        result = put_on_medium(disk, offset / SECTOR + roll(count / SECTOR), garbage);
    return leave(result);
}

static struct nbdkit_plugin plugin = {
    .name = "volatile-disk",
    .description = "disks with a volatile write cache and a power switch",
    .config = volatile_config,
    .config_help = "disk=PATH [disk=PATH]... [seed=N] [lie=N]",
    .get_ready = volatile_get_ready,
    .open = volatile_open,
    .get_size = volatile_get_size,
    .block_size = volatile_block_size,
    .can_flush = answer_yes,
    .can_trim = answer_yes,
    .can_zero = answer_yes,
    .can_multi_conn = answer_yes,
    .can_fua = native_fua,
    .pread = volatile_pread,
    .pwrite = volatile_pwrite,
    .flush = volatile_flush,
    .trim = volatile_trim,
    .zero = volatile_zero,
};

NBDKIT_REGISTER_PLUGIN(plugin)
