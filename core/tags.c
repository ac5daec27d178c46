/* tags.c - names into numbers, and no more of them than a record has room for; see tags.h. */
#include <tags.h>

#include <log.h>
#include <string.h>

freshet_result tags_check(const char *name, const char *what)
{
    size_t size = name ? strnlen(name, FRESHET_TAG_MAX + 1) : 0;

    if (size == 0 || size > FRESHET_TAG_MAX)
        return fail(FRESHET_EINVAL, "a %s has 1 to %u bytes; this one is %s", what, FRESHET_TAG_MAX,
                    !name       ? "NULL"
                    : size == 0 ? "empty"
                                : "longer");
    return FRESHET_OK;
}

static void tags_note(struct tags *tags, const struct key_space *space, bool name_space, const char *name)
{
    uint8_t hash[16];

    key_tag(space, name_space, name, strlen(name), hash);
    tags->numbers[tags->count++] = key_tag_number(hash);
}

freshet_result tags_add(struct tags *tags, const struct key_space *space, const char *name)
{
    freshet_result result = tags_check(name, "tag");

    if (result != FRESHET_OK)
        return result;
    if (tags->count - tags->has_space >= FRESHET_TAGS_MAX)
        return fail(FRESHET_EINVAL, "an entry has at most %u tags", FRESHET_TAGS_MAX);
    tags_note(tags, space, false, name);
    return FRESHET_OK;
}

freshet_result tags_take(struct tags *tags, const struct key_space *space, const char *const *names, size_t count,
                         const char *name_space)
{
    freshet_result result;

    *tags = (struct tags){0};
    if (count > FRESHET_TAGS_MAX || (count > 0 && !names))
        return fail(FRESHET_EINVAL, "an entry has at most %u tags, not %zu%s", FRESHET_TAGS_MAX, count,
                    names ? "" : " behind a NULL");
    if (name_space) {
        if ((result = tags_check(name_space, "namespace")) != FRESHET_OK)
            return result;
        tags_note(tags, space, true, name_space);
        tags->has_space = true;
    }
    for (size_t i = 0; i < count; i++)
        if ((result = tags_add(tags, space, names[i])) != FRESHET_OK)
            return result;
    return FRESHET_OK;
}
