/* result.c - results in words, and the library's version.  The words are those of freshet.h. */
#include <freshet.h>

struct result_words {
    const char *name;
    const char *text;
};

static struct result_words result_words(freshet_result result)
{
    switch (result) {
    case FRESHET_OK:
        return (struct result_words){"FRESHET_OK", "done"};
    case FRESHET_MISS:
        return (struct result_words){"FRESHET_MISS", "no entry that may be served"};
    case FRESHET_ABSENT:
        return (struct result_words){"FRESHET_ABSENT", "known to be absent from the source"};
    case FRESHET_STALE:
        return (struct result_words){"FRESHET_STALE", "served, though its bound could not be shown"};
    case FRESHET_QUEUED:
        return (struct result_words){"FRESHET_QUEUED", "the change waits for Redis; its keys are not served so long"};
    case FRESHET_OUTDATED:
        return (struct result_words){"FRESHET_OUTDATED", "the source version is below the stored one"};
    case FRESHET_UNREPLICATED:
        return (struct result_words){"FRESHET_UNREPLICATED", "confirmed, but by fewer replicas in time than asked for"};
    case FRESHET_UNPROVEN:
        return (struct result_words){"FRESHET_UNPROVEN", "not confirmed by Redis yet; it goes on in the background"};
    case FRESHET_GUARDED:
        return (struct result_words){"FRESHET_GUARDED", "somebody guards the key: nothing stored, it was invalidated"};
    case FRESHET_GUARD_LOST:
        return (struct result_words){"FRESHET_GUARD_LOST", "the guard was not held until its end"};
    case FRESHET_EINVAL:
        return (struct result_words){"FRESHET_EINVAL", "an argument or option is out of its range"};
    case FRESHET_ENOMEM:
        return (struct result_words){"FRESHET_ENOMEM", "no memory in this process"};
    case FRESHET_EIO:
        return (struct result_words){"FRESHET_EIO", "the map or the system beneath it failed"};
    case FRESHET_EDIR:
        return (struct result_words){"FRESHET_EDIR", "the directory is not fit for a tier"};
    case FRESHET_EBUSY:
        return (struct result_words){"FRESHET_EBUSY", "in use in another shape, or held by another process"};
    case FRESHET_ENOSPC:
        return (struct result_words){"FRESHET_ENOSPC", "the file system has no room for the control page"};
    case FRESHET_ETOOBIG:
        return (struct result_words){"FRESHET_ETOOBIG", "the key or value is above its limit"};
    case FRESHET_ETIMEOUT:
        return (struct result_words){"FRESHET_ETIMEOUT", "the deadline passed first"};
    case FRESHET_ELOAD:
        return (struct result_words){"FRESHET_ELOAD", "the loader failed"};
    case FRESHET_EFLEET:
        return (struct result_words){"FRESHET_EFLEET", "the tier belongs to a fleet: join it first"};
    case FRESHET_ENET:
        return (struct result_words){"FRESHET_ENET", "Redis cannot be reached"};
    case FRESHET_EREDIS:
        return (struct result_words){"FRESHET_EREDIS", "Redis answers, but refuses"};
    case FRESHET_EKEYRING:
        return (struct result_words){"FRESHET_EKEYRING", "the keyring file is not fit"};
    }
    return (struct result_words){"FRESHET_?", "no result of this library"};
}

const char *freshet_result_name(freshet_result result)
{
    return result_words(result).name;
}

const char *freshet_result_text(freshet_result result)
{
    return result_words(result).text;
}

const char *freshet_version(void)
{
    return FRESHET_VERSION;
}
