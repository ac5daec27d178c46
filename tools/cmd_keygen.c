/*
 * cmd_keygen.c - freshet keygen: a keyring for a new fleet, or one more for a fleet that is there.
 */
#include "tool.h"

int cmd_keygen(struct tool *tool)
{
    struct json json = {.out = stdout};
    freshet_result result = freshet_keygen(tool->args[0], tool->like);

    if (result != FRESHET_OK)
        return tool_failed(tool, result, "cannot make the keyring");
    if (tool->json) {
        json_open(&json, NULL, '{');
        json_text(&json, "result", "ok");
        json_text(&json, "keyring", tool->args[0]);
        if (tool->like)
            json_text(&json, "like", tool->like);
        json_close(&json, '}');
    } else if (tool->like) {
        printf("%s and %s now trust each other; give the other hosts' files the new \"trust\" line of %s\n",
               tool->args[0], tool->like, tool->like);
    } else {
        printf("%s is the keyring of a new fleet; make the other hosts' with --like %s\n", tool->args[0],
               tool->args[0]);
    }
    return TOOL_DONE;
}
