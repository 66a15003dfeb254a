-- Wireshark's view of what a host of umktls does: upcalls, system calls, events.
--
-- Captures of umktls have them on an interface of their own, as text: a line "name: value" for
-- each field. Load it with `wireshark -X lua_script:FILE`, or put it into the directory of
-- personal Lua plugins that Wireshark names in Help > About > Folders.

local umktls = Proto("umktls", "umktls host")

-- What can be filtered for; other fields are shown as text.
local STRINGS = {
    kind = "Kind",
    name = "Name",
    text = "Text",
    host = "Host",
    connection = "Connection",
    daemon = "Daemon",
    procedure = "Procedure",
    what = "Arguments",
    result = "Result",
    reason = "Reason",
    side = "Side",
}
local NUMBERS = { pid = "Process", fd = "Descriptor" }

local known = {}
for name, title in pairs(STRINGS) do
    known[name] = ProtoField.string("umktls." .. name, title)
end
for name, title in pairs(NUMBERS) do
    known[name] = ProtoField.uint32("umktls." .. name, title)
end
known.seconds = ProtoField.double("umktls.seconds", "Seconds")

local fields = {}
for _, field in pairs(known) do
    fields[#fields + 1] = field
end
umktls.fields = fields

local function number_or_text(tree, field, range, value)
    local number = tonumber(value)
    if number == nil then
        tree:add(range, range:string(ENC_UTF_8))
    else
        tree:add(field, range, number)
    end
end

local function add(tree, name, value, line, range)
    local field = known[name]
    if field == nil then
        tree:add(line, line:string(ENC_UTF_8))
    elseif NUMBERS[name] or name == "seconds" then
        number_or_text(tree, field, range, value)
    else
        tree:add_packet_field(field, range, ENC_UTF_8 + ENC_STRING)
    end
end

function umktls.dissector(buffer, packet, root)
    packet.cols.protocol = "umktls"
    local tree = root:add(umktls, buffer())
    local said = {}
    local text = buffer:raw()
    local from = 1
    while from <= #text do
        local stop = text:find("\n", from, true) or (#text + 1)
        local line = text:sub(from, stop - 1)
        local name, value = line:match("^([%w_]+): ?(.*)$")
        if name ~= nil and #line > 0 then
            local at = from - 1 + #line - #value
            local range = #value > 0 and buffer(at, #value) or buffer(from - 1, #line)
            add(tree, name, value, buffer(from - 1, #line), range)
            said[name] = value
        end
        from = stop + 1
    end
    local info = said.text or ((said.kind or "?") .. " " .. (said.name or ""))
    packet.cols.info = info
    tree:append_text(", " .. info)
    return buffer:len()
end

-- RPC-with-TLS (RFC 9289): a connection begins with a call in clear whose credential has the
-- flavor AUTH_TLS, and goes on with TLS. Wireshark 4.0 would take all of it for RPC.

local starttls = Proto("umktls_starttls", "RPC with TLS")
local rpc, tls = Dissector.get("rpc"), Dissector.get("tls")
local AUTH_TLS = 7

-- Whether a message in one fragment is all there is.
local function is_message(buffer)
    return buffer:len() >= 28 and buffer(0, 4):uint() == 0x80000000 + buffer:len() - 4
end

function starttls.dissector(buffer, packet, root)
    if is_message(buffer) then
        rpc:call(buffer(4):tvb(), packet, root)
        packet.conversation = starttls  -- which that has taken for itself
        return buffer:len()
    end
    packet.can_desegment = 2  -- each dissector on the way takes one away
    return tls:call(buffer, packet, root)
end

local function is_probe(buffer)
    return is_message(buffer) and buffer(8, 4):uint() == 0 and buffer(28, 4):uint() == AUTH_TLS
end

starttls:register_heuristic("tcp", function(buffer, packet, root)
    if buffer:len() < 44 or not is_probe(buffer) then
        return false
    end
    starttls.dissector(buffer, packet, root)
    return true
end)
