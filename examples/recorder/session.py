"""A session as its script tells it: prompts, words, tool uses, and the end of each turn."""

from typing import Any

from recorder.shell import PROJECT
from recorder.tape import MODEL, Tape
from recorder.workshop import Outcome, Workshop

# The model's time for a tool use, in ms: from, below. A command's own running time is not measured,
# since a recording must not depend on the machine.
DURATIONS_MS = {"Bash": (90, 900), "Task": (21000, 64000), "mcp__bank__month_totals": (240, 700)}
FILE_TOOL_DURATION_MS = (3, 40)


class Session:
    """Tells the tape about everything that the workshop does.

    Words (`think`, `say`) wait until the next tool use or the turn's end: together they are one message,
    which the transcript splits over several lines.
    """

    def __init__(self, tape: Tape, workshop: Workshop) -> None:
        self.tape = tape
        self.workshop = workshop
        self._blocks: list[dict[str, Any]] = []

    def start(self, *, source: str = "startup") -> None:
        self.tape.hook("SessionStart", source=source, model=MODEL)
        self._progress("SessionStart", f"SessionStart:{source}", self.tape.new_uuid("hook"))

    def prompt(self, text: str) -> None:
        self.tape.wait(self.tape.number("pause", 40_000, 260_000))
        message_id = self.tape.new_uuid("snapshot")
        snapshot = {"messageId": message_id, "trackedFileBackups": {}, "timestamp": self.tape.timestamp()}
        self.tape.bare_line("file-history-snapshot", messageId=message_id, snapshot=snapshot, isSnapshotUpdate=False)
        self.tape.hook("UserPromptSubmit", prompt=text)
        self.tape.line("user", message={"role": "user", "content": text}, todos=[], permissionMode="acceptEdits")

    def think(self, text: str) -> None:
        signature = self.tape.new_id("Eu") + self.tape.new_id("")
        self._blocks.append({"type": "thinking", "thinking": text, "signature": signature})

    def say(self, text: str) -> None:
        self._blocks.append({"type": "text", "text": text})

    def bash(self, command: str, description: str) -> None:
        self.use("Bash", command=command, description=description)

    def read(self, path: str, **span: int) -> None:
        self.use("Read", file_path=f"{PROJECT}/{path}", **span)

    def edit(self, path: str, old: str, new: str, *, everywhere: bool = False) -> None:
        self.use("Edit", file_path=f"{PROJECT}/{path}", old_string=old, new_string=new, replace_all=everywhere)

    def write(self, path: str, content: str) -> None:
        self.use("Write", file_path=f"{PROJECT}/{path}", content=content)

    def todo(self, *states: tuple[str, str]) -> None:
        """The whole list again, as (state, content)."""
        todos = [{"content": content, "status": state, "activeForm": content} for state, content in states]
        self.use("TodoWrite", todos=todos)

    def use(self, tool: str, **given: Any) -> None:
        self.use_together((tool, given))

    def use_together(self, *uses: tuple[str, dict[str, Any]]) -> None:
        """Tool uses of one message. Of two and more the client tells its hooks once more, in a PostToolBatch."""
        told = self._tell(uses, agent_id=None)
        calls = []
        for tool, given, tool_use_id, line_id in told:
            outcome = self._perform(tool, given, tool_use_id, line_id)
            calls.append(
                {"tool_name": tool, "tool_input": given, "tool_use_id": tool_use_id, "tool_response": outcome.text}
            )
        if len(calls) > 1:
            self.tape.hook("PostToolBatch", tool_calls=calls)

    def task(
        self, description: str, prompt: str, *uses: tuple[str, dict[str, Any]], agent_type: str, answer: str
    ) -> None:
        """A subagent with tool uses of its own, which ends with its answer."""
        given = {"description": description, "prompt": prompt, "subagent_type": agent_type}
        [(_, _, task_use_id, task_line_id)] = self._tell([("Task", given)], agent_id=None)
        agent_id = self.tape.new_agent_id()
        agent = {"agent_id": agent_id, "agent_type": agent_type}
        self.tape.hook("SubagentStart", **agent)
        self.tape.line("user", agent_id=agent_id, message={"role": "user", "content": prompt})
        for use in uses:
            [(tool, tool_given, tool_use_id, line_id)] = self._tell([use], agent_id=agent_id)
            self._repeat_as_progress(agent_id, prompt, task_use_id)
            self._perform(tool, tool_given, tool_use_id, line_id, agent=agent)
        self._message([{"type": "text", "text": answer}], agent_id=agent_id)
        self.tape.hook(
            "SubagentStop",
            stop_hook_active=False,
            **agent,
            agent_transcript_path=self.tape.transcript_path,
            last_assistant_message=answer,
        )
        content = [{"type": "text", "text": answer}]
        duration_ms = self._duration_ms("Task")
        response = {
            "status": "completed",
            "prompt": prompt,
            "agentId": agent_id,
            "content": content,
            "totalDurationMs": duration_ms,
            "totalTokens": self.tape.number("agent-tokens", 9000, 31000),
            "totalToolUseCount": len(uses),
            "usage": self.tape.usage(),
        }
        self._keep_result("Task", given, Outcome(answer, response), task_use_id, task_line_id, duration_ms=duration_ms)

    def stop(self, text: str) -> None:
        """The turn's last message and its end."""
        self.say(text)
        self._message(self._take_blocks(), agent_id=None)
        self.tape.wait(40)
        self.tape.hook("Stop", stop_hook_active=False, last_assistant_message=text)
        self.tape.line("system", subtype="turn_duration", durationMs=self.tape.number("turn", 80_000, 400_000))

    def compact(self, summary: str) -> None:
        """The client makes room: the work so far is replaced by a summary."""
        self.tape.hook("PreCompact", trigger="auto", custom_instructions="")
        self.tape.wait(self.tape.number("compact", 9000, 30000))
        self.tape.line(
            "system",
            subtype="compact_boundary",
            content="Conversation compacted",
            level="info",
            compactMetadata={"trigger": "auto", "preTokens": self.tape.number("pre-tokens", 148_000, 156_000)},
        )
        self.tape.line(
            "user", message={"role": "user", "content": summary}, isCompactSummary=True, isVisibleInTranscriptOnly=True
        )
        self.start(source="compact")

    def end(self, summary: str) -> None:
        self.tape.hook("SessionEnd", reason="prompt_input_exit")
        self.tape.bare_line("summary", summary=summary, leafUuid=self.tape.lines[-1]["uuid"])

    def _take_blocks(self) -> list[dict[str, Any]]:
        blocks, self._blocks = self._blocks, []
        return blocks

    def _tell(
        self, uses: list[tuple[str, dict[str, Any]]] | tuple[tuple[str, dict[str, Any]], ...], *, agent_id: str | None
    ) -> list[tuple[str, dict[str, Any], str, str]]:
        """Say that tools are used; each use again with its id and the uuid of its line."""
        blocks = [
            {"type": "tool_use", "id": self.tape.new_id("toolu_01"), "name": tool, "input": given}
            for tool, given in uses
        ]
        line_ids = self._message([*self._take_blocks(), *blocks], agent_id=agent_id)
        line_ids_of_uses = line_ids[-len(blocks) :]
        return [
            (block["name"], block["input"], block["id"], line_id)
            for block, line_id in zip(blocks, line_ids_of_uses, strict=True)
        ]

    def _message(self, blocks: list[dict[str, Any]], *, agent_id: str | None) -> list[str]:
        message_id, request_id = self.tape.new_id("msg_01"), self.tape.new_id("req_011")
        line_ids = []
        for block in blocks:
            self.tape.wait(self.tape.number("block", 700, 6000))
            message = {
                "model": MODEL,
                "id": message_id,
                "type": "message",
                "role": "assistant",
                "content": [block],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": self.tape.usage(),
            }
            line_ids.append(self.tape.line("assistant", agent_id=agent_id, message=message, requestId=request_id))
        return line_ids

    def _perform(
        self, tool: str, given: dict[str, Any], tool_use_id: str, line_id: str, *, agent: dict[str, str] | None = None
    ) -> Outcome:
        duration_ms = self._duration_ms(tool)
        outcome = self.workshop.use(tool, given, at=self.tape.now)
        if tool == "Bash" and "git init" in given["command"]:
            self.tape.branch = "main"
        self.tape.wait(duration_ms)
        self._keep_result(tool, given, outcome, tool_use_id, line_id, duration_ms=duration_ms, agent=agent)
        return outcome

    def _keep_result(
        self,
        tool: str,
        given: dict[str, Any],
        outcome: Outcome,
        tool_use_id: str,
        line_id: str,
        *,
        duration_ms: int,
        agent: dict[str, str] | None = None,
    ) -> None:
        agent = agent or {}
        use = {"tool_name": tool, "tool_input": given, "tool_use_id": tool_use_id}
        if outcome.failed:
            self.tape.hook("PostToolUseFailure", **use, error=outcome.text, is_interrupt=False, **agent)
        else:
            self.tape.hook("PostToolUse", **use, tool_response=outcome.response, duration_ms=duration_ms, **agent)
        result: dict[str, Any] = {"tool_use_id": tool_use_id, "type": "tool_result", "content": outcome.text}
        if outcome.failed and tool != "Bash":
            result["content"] = f"<tool_use_error>{outcome.text}</tool_use_error>"
        if tool == "Task" or tool.startswith("mcp__"):
            result["content"] = [{"type": "text", "text": outcome.text}]
        if tool == "Bash" or outcome.failed:
            result["is_error"] = outcome.failed
        self.tape.line(
            "user",
            agent_id=agent.get("agent_id"),
            message={"role": "user", "content": [result]},
            toolUseResult=f"Error: {outcome.text}" if outcome.failed else outcome.response,
            sourceToolAssistantUUID=line_id,
        )
        if not agent:
            event = "PostToolUseFailure" if outcome.failed else "PostToolUse"
            self._progress(event, f"{event}:{tool}", tool_use_id)

    def _progress(self, event: str, name: str, tool_use_id: str) -> None:
        """What the client writes of a hook that it runs."""
        self.tape.line(
            "progress",
            data={"type": "hook_progress", "hookEvent": event, "hookName": name, "command": "callback"},
            parentToolUseID=tool_use_id,
            toolUseID=tool_use_id,
        )

    def _repeat_as_progress(self, agent_id: str, prompt: str, task_use_id: str) -> None:
        """The client says a subagent's tool use twice: in the subagent's chain, and as progress of the Task."""
        said = self.tape.lines[-1]
        again = {name: said[name] for name in ("type", "timestamp", "message", "requestId", "uuid")}
        self.tape.line(
            "progress",
            data={"type": "agent_progress", "message": again, "prompt": prompt, "agentId": agent_id},
            toolUseID=f"agent_{self.tape.new_id('msg_01')}",
            parentToolUseID=task_use_id,
        )

    def _duration_ms(self, tool: str) -> int:
        return self.tape.number(f"duration/{tool}", *DURATIONS_MS.get(tool, FILE_TOOL_DURATION_MS))
