// Written by `onlooker install opencode`, taken out again by `onlooker install opencode --uninstall`.
// Hands each event to the hook client (onlooker/hooks/client.py), one after the other; OpenCode waits for none of them.
import { spawn } from "node:child_process"

const COMMAND = __COMMAND__
const LONGEST_WAIT_MS = 2000

function tell(payload, more = []) {
  return new Promise((resolve) => {
    let told = ""
    try {
      const [program, ...words] = COMMAND
      const child = spawn(program, [...words, ...more], { cwd: payload.directory, stdio: ["pipe", "pipe", "ignore"] })
      const late = setTimeout(() => resolve(""), LONGEST_WAIT_MS)
      const end = () => { clearTimeout(late); resolve(told) }
      child.on("error", end)
      child.on("close", end)
      child.stdin.on("error", () => {})
      child.stdout.on("data", (part) => { told += part })
      child.stdin.end(JSON.stringify(payload))
    } catch {
      resolve("")
    }
  })
}

export const Onlooker = async ({ directory }) => {
  let last = Promise.resolve()
  const contexts = new Map()
  const said = new Map()

  const send = (payload, more) => {
    const next = last.then(() => tell({ directory, timestamp: Date.now(), ...payload }, more))
    last = next.catch(() => "")
    return next
  }

  const start = async (sessionID, payload) => {
    const told = await send(payload, ["--context"])
    try {
      contexts.set(sessionID, JSON.parse(told).additional_context)
    } catch {}
  }

  return {
    event: async ({ event }) => {
      const about = event.properties ?? {}
      const sessionID = about.sessionID ?? about.info?.id
      if (event.type === "message.part.updated" && about.part?.type === "text" && about.part.time?.end) {
        said.set(about.part.sessionID, about.part.text)
      } else if (event.type === "session.created" || event.type === "session.compacted") {
        await start(sessionID, { hook_event_name: event.type, input: about })
      } else if (event.type === "session.idle") {
        send({ hook_event_name: event.type, input: about, last_assistant_message: said.get(sessionID) })
      } else if (event.type === "session.deleted") {
        contexts.delete(sessionID)
        said.delete(sessionID)
        send({ hook_event_name: event.type, input: about })
      }
    },
    "chat.message": async (input, output) => {
      send({ hook_event_name: "chat.message", input, output: { message: output.message, parts: output.parts } })
    },
    "tool.execute.after": async (input, output) => {
      const { title, output: text, metadata } = output
      send({ hook_event_name: "tool.execute.after", input, output: { title, output: text, metadata, args: input.args } })
    },
    "experimental.chat.system.transform": async (input, output) => {
      const context = contexts.get(input.sessionID)
      if (context) output.system.push(context)
    },
  }
}
