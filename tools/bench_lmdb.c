/*
 * bench_lmdb.c - the floor of get and fill: LMDB itself, with the tier's flags, and nothing around it.
 *
 * The 32-byte keys are used as they are: whoever uses LMDB without us would do so, and for keys this short it is
 * the same tree as with a 16-byte hash, which would have to be computed besides.  Values arrive in the same
 * order as in the tier, at random places of the tree.
 */
#include "bench.h"

#include <errno.h>
#include <lmdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct raw_map {
    MDB_env *env;
    MDB_txn *reader; /* reset between reads */
    MDB_txn *writer; /* the batch that is open; NULL: none */
    MDB_dbi dbi;
};

void raw_map_close(struct raw_map *map)
{
    if (!map)
        return;
    if (map->writer)
        mdb_txn_abort(map->writer);
    if (map->reader)
        mdb_txn_abort(map->reader);
    mdb_env_close(map->env);
    free(map);
}

struct raw_map *raw_map_open(const char *dir, uint64_t size)
{
    struct raw_map *map = calloc(1, sizeof *map);
    MDB_txn *txn = NULL;

    if (!map || (mkdir(dir, 0700) != 0 && errno != EEXIST) || mdb_env_create(&map->env) != 0) {
        free(map);
        return NULL;
    }
    if (mdb_env_set_mapsize(map->env, size) != 0 ||
        mdb_env_open(map->env, dir, MDB_NOSYNC | MDB_NOMETASYNC | MDB_NOTLS, 0600) != 0 ||
        mdb_txn_begin(map->env, NULL, 0, &txn) != 0)
        goto fail;
    if (mdb_dbi_open(txn, NULL, 0, &map->dbi) != 0) {
        mdb_txn_abort(txn);
        goto fail;
    }
    if (mdb_txn_commit(txn) != 0 || mdb_txn_begin(map->env, NULL, MDB_RDONLY, &map->reader) != 0)
        goto fail;
    mdb_txn_reset(map->reader);
    return map;
fail:
    raw_map_close(map);
    return NULL;
}

bool raw_map_commit(struct raw_map *map)
{
    int rc = map->writer ? mdb_txn_commit(map->writer) : 0;

    map->writer = NULL;
    return rc == 0;
}

bool raw_map_put(struct raw_map *map, const struct bench_records *records, uint32_t i, const unsigned char *value,
                 bool commit)
{
    MDB_val key = {BENCH_KEY, records->keys[i]}, data = {records->size, (void *)value};
    int rc = 0;

    if (!map->writer)
        rc = mdb_txn_begin(map->env, NULL, 0, &map->writer);
    if (rc == 0)
        rc = mdb_put(map->writer, map->dbi, &key, &data, 0);
    return rc == 0 && (!commit || raw_map_commit(map));
}

bool raw_map_drop(struct raw_map *map, const struct bench_records *records, uint32_t i)
{
    MDB_val key = {BENCH_KEY, records->keys[i]};

    return map->writer && mdb_del(map->writer, map->dbi, &key, NULL) == 0;
}

bool raw_map_get_one(struct raw_map *map, const char *key_data, unsigned char *buf)
{
    MDB_val key = {BENCH_KEY, (void *)key_data}, data;

    if (mdb_txn_renew(map->reader) != 0 || mdb_get(map->reader, map->dbi, &key, &data) != 0)
        return false;
    memcpy(buf, data.mv_data, data.mv_size);
    mdb_txn_reset(map->reader);
    return true;
}

int64_t raw_map_get(struct raw_map *map, const struct bench_records *records, const uint32_t *sequence, size_t count,
                    unsigned char *buf, uint64_t *sum)
{
    int64_t start = bench_cpu_ns();

    for (size_t i = 0; i < count; i++) {
        if (!raw_map_get_one(map, records->keys[sequence[i]], buf))
            return -1;
        *sum += buf[0];
    }
    return bench_cpu_ns() - start;
}
