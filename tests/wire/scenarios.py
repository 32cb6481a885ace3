"""Sequences of commands that must be answered alike by a real redis-server and by the node, errors included.

A line is split at spaces; `""` is an empty word, XLONG and YLONG are long ones, `\\x00` and the like are bytes. Lines
that begin with `~` answer with a number that may differ a little (time passes); with `?` only the type of the reply is
compared.
"""

from __future__ import annotations

BIG = "9223372036854775807"

SCENARIOS: dict[str, str] = {
    "get and set": """
        GET a
        SET a 1
        GET a
        SET a 2 EX 100
        ~TTL a
        SET a 3
        TTL a
        SET a 4 PX 100000
        ~PTTL a
        SET a 5 KEEPTTL
        ~PTTL a
        GET a
        SET a 6 EXAT 33177117420
        ~TTL a
        SET a 7 PXAT 33177117420000
        ~TTL a
        SET a 8 PXAT 1
        GET a
        EXISTS a
        SET a ""
        GET a
        STRLEN a
        SET \\x00\\xff\\r\\n \\x00\\r\\nx
        GET \\x00\\xff\\r\\n
        get a
        sEt a 9 eX 100
        ~ttl a
    """,
    "set conditions": """
        SET a 1 XX
        GET a
        SET a 1 NX
        SET a 2 NX
        SET a 3 XX
        GET a
        SET a 4 GET
        SET a 5 NX GET
        SET b 5 NX GET
        GET b
        SET c 6 XX GET
        GET c
        SET a 7 XX GET EX 100
        ~TTL a
        SET a 8 GET KEEPTTL
        ~TTL a
        SET a 1 NX XX
        SET a 1 EX 10 PX 10
        SET a 1 EX 10 KEEPTTL
        SET a 1 KEEPTTL EX 10
        SET a 1 EX 10 EX 20
        SET a 1 EX
        SET a 1 EX x
        SET a 1 EX 0
        SET a 1 EX -1
        SET a 1 PX 0
        SET a 1 EXAT 0
        SET a 1 PXAT -5
        SET a 1 EX 9223372036854775807
        SET a 1 PX 9223372036854775807
        SET a 1 EX 9223372036854775808
        SET a 1 EX 1.5
        SET a 1 EX +5
        SET a 1 EX 05
        SET a 1 FOO
        SET a 1 PERSIST
        SET a
        SET
        GET
        GET a b
        SET a 1 NX NX
        SET a 1 GET GET
        SET z 1 XX NX GET
    """,
    "setters": """
        SETNX a 1
        SETNX a 2
        GET a
        SETEX b 100 v
        ~TTL b
        GET b
        PSETEX c 100000 v
        ~PTTL c
        SETEX b 0 v
        SETEX b -1 v
        SETEX b x v
        PSETEX b 0 v
        SETEX b 9223372036854775807 v
        SETEX b 100
        SETNX a
        GETSET a 3
        GETSET new 3
        GET new
        SETEX a 100 v
        GETSET a w
        TTL a
        GETDEL a
        GETDEL a
        GET a
        GETDEL
        GETSET a
    """,
    "getex": """
        GETEX a
        SET a v
        GETEX a
        TTL a
        GETEX a EX 100
        ~TTL a
        GETEX a
        ~TTL a
        GETEX a PERSIST
        TTL a
        GETEX a PX 100000
        ~PTTL a
        GETEX a EXAT 33177117420
        ~TTL a
        GETEX a PXAT 33177117420000
        ~TTL a
        GETEX a EX 0
        GETEX a EX x
        GETEX none EX x
        GETEX a EX 10 PERSIST
        GETEX a PERSIST EX 10
        GETEX a PERSIST PERSIST
        GETEX a EX 10 PX 10
        GETEX a KEEPTTL
        GETEX a NX
        GETEX a EX
        GETEX a GET
        GETEX
        GETEX a PXAT 1
        GET a
    """,
    "many keys": """
        MSET a 1 b 2 c 3
        MGET a b nope c a
        MSET a
        MSET a 1 b
        MSET
        MGET
        SETEX a 100 1
        MSET a 2
        TTL a
        EXISTS a b nope a
        EXISTS
        TOUCH a b nope
        TOUCH
        DEL a nope b
        DEL a
        DEL
        UNLINK c c
        UNLINK
        MGET a b c
        EXISTS a
    """,
    "ranges": """
        SET a hello
        GETRANGE a 0 2
        GETRANGE a -3 -1
        GETRANGE a 0 -1
        GETRANGE a 3 100
        GETRANGE a 5 10
        GETRANGE a -100 1
        GETRANGE a -1 -3
        GETRANGE a -100 -50
        GETRANGE a 3 1
        GETRANGE nope 0 -1
        GETRANGE a x 1
        GETRANGE a 0
        SUBSTR a 1 3
        SETRANGE a 1 EY
        GET a
        SETRANGE a 8 x
        GET a
        SETRANGE new 3 x
        GET new
        SETRANGE none 0 ""
        EXISTS none
        SETRANGE a 0 ""
        SETRANGE a -1 x
        SETRANGE a x x
        SETRANGE a 1
        SETEX t 100 abc
        SETRANGE t 1 X
        ~TTL t
        MSETNX m1 a m2 b
        MSETNX m2 x m3 y
        MGET m1 m2 m3
        MSETNX m1
        MSETNX m1 a m2
    """,
    "subscriptions": """
        UNSUBSCRIBE
        SUBSCRIBE chan
        UNSUBSCRIBE chan
        UNSUBSCRIBE nope
        SUBSCRIBE
        MULTI
        SUBSCRIBE x
        EXEC
        FUNCTION FLUSH
        FUNCTION FOO
        CONFIG SET databases
        CONFIG SET nosuch 1
        CONFIG SET save ""
        GET a
    """,
    "counters": """
        INCR a
        INCR a
        INCRBY a 40
        DECR a
        DECRBY a 20
        GET a
        INCRBY a -1
        SETEX a 100 5
        INCR a
        ~TTL a
        SET a x
        INCR a
        DECR a
        INCRBY a 1
        SET a 9223372036854775807
        INCR a
        INCRBY a 1
        DECRBY a -1
        SET a -9223372036854775808
        DECR a
        DECRBY a 1
        DECRBY a -9223372036854775808
        INCRBY a x
        INCRBY a 1.5
        INCRBY a 9223372036854775808
        INCRBY a
        INCR
        DECR a b
        SET a 012
        INCR a
        SET a +1
        INCR a
        SET a ""
        INCR a
        SET a -0
        INCR a
        SET a 1\\x20
        INCR a
    """,
    "float counters": """
        INCRBYFLOAT a 10.50
        INCRBYFLOAT a 0.1
        INCRBYFLOAT a -5
        SET a 5e3
        INCRBYFLOAT a 2.0e2
        INCRBYFLOAT a -5200
        INCRBYFLOAT a 3
        INCRBYFLOAT a 0.1
        INCRBYFLOAT a 0.2
        INCRBYFLOAT a x
        INCRBYFLOAT a
        SETEX b 100 1.5
        INCRBYFLOAT b 1.25
        ~TTL b
        SET b x
        INCRBYFLOAT b 1
        SET b \\x201
        INCRBYFLOAT b 1
    """,
    "append and length": """
        APPEND a hello
        APPEND a \\x20world
        GET a
        STRLEN a
        STRLEN nope
        SETEX a 100 x
        APPEND a y
        ~TTL a
        APPEND a ""
        GET a
        APPEND a
        STRLEN
        STRLEN a b
    """,
    "expire": """
        EXPIRE a 10
        SET a 1
        EXPIRE a 100
        ~TTL a
        ~PTTL a
        PEXPIRE a 50000
        ~PTTL a
        EXPIREAT a 33177117420
        ~TTL a
        EXPIRETIME a
        PEXPIRETIME a
        PEXPIREAT a 33177117420000
        EXPIRETIME a
        PERSIST a
        PERSIST a
        PERSIST nope
        TTL a
        PTTL a
        TTL nope
        PTTL nope
        EXPIRETIME a
        PEXPIRETIME nope
        EXPIRE a 100 XX
        TTL a
        EXPIRE a 100 NX
        EXPIRE a 200 NX
        ~TTL a
        EXPIRE a 50 GT
        EXPIRE a 300 GT
        ~TTL a
        EXPIRE a 400 LT
        EXPIRE a 100 LT
        ~TTL a
        EXPIRE a 150 XX GT
        PERSIST a
        EXPIRE a 100 GT
        EXPIRE a 100 LT
        ~TTL a
        EXPIRE a 10 NX XX
        EXPIRE a 10 NX GT
        EXPIRE a 10 GT LT
        EXPIRE a 10 FOO
        EXPIRE a 10 NX FOO
        EXPIRE a x
        EXPIRE a 1.0
        EXPIRE a
        EXPIRE a 9223372036854775807
        PEXPIRE a 9223372036854775807
        EXPIRE a -9223372036854775808
        EXPIREAT a 9223372036854775807
        EXPIRE a -1
        GET a
        SET b 1
        EXPIRE b 0
        EXISTS b
        SET b 1
        PEXPIREAT b 1
        EXISTS b
        SET b 1
        EXPIRE b -1 GT
        EXISTS b
        TTL
        PERSIST
    """,
    "keyspace": """
        DBSIZE
        SET a 1
        SET b 2
        DBSIZE
        TYPE a
        TYPE nope
        TYPE
        KEYS nope*
        KEYS a
        KEYS [a]
        ?KEYS ?
        SCAN 0 MATCH nope*
        SCAN 0 MATCH a
        SCAN 0 MATCH a COUNT 100 TYPE string
        SCAN 0 TYPE list COUNT 1000
        SCAN x
        ?SCAN -1
        SCAN 0 COUNT 0
        SCAN 0 COUNT x
        SCAN 0 COUNT
        SCAN 0 FOO 1
        SCAN
        KEYS
        FLUSHDB
        DBSIZE
        SET a 1
        FLUSHALL ASYNC
        DBSIZE
        SET a 1
        FLUSHALL SYNC
        FLUSHALL FOO
        FLUSHDB ASYNC SYNC
        GET a
        DBSIZE a
        OBJECT ENCODING nope
        OBJECT FOO a
        OBJECT
    """,
    "session": """
        PING
        PING hello
        PING a b
        ECHO hi
        ECHO
        SELECT 0
        SELECT 99
        SELECT -1
        SELECT x
        SELECT
        CLIENT GETNAME
        CLIENT SETNAME me
        CLIENT GETNAME
        CLIENT SETNAME a\\x20b
        CLIENT SETNAME ""
        CLIENT GETNAME
        ?CLIENT ID
        CLIENT ID x
        CLIENT
        CLIENT FOO
        CLIENT SETNAME
        ?CLIENT LIST
        CLIENT LIST ID x
        CLIENT LIST ID
        CLIENT LIST TYPE foo
        CLIENT LIST TYPE pubsub
        ?CLIENT INFO
        CLIENT REPLY FOO
        CLIENT REPLY ON
        CLIENT KILL 1.2.3.4:5
        CLIENT KILL ID 999999
        CLIENT KILL ID x
        CLIENT KILL ID 0
        CLIENT KILL TYPE foo
        CLIENT KILL FOO bar
        CLIENT KILL ADDR 1.2.3.4:5
        CLIENT KILL USER nobody
        CLIENT KILL ID
        CLIENT NO-EVICT on
        CLIENT NO-EVICT maybe
        AUTH secret
        AUTH default secret
        AUTH nobody secret
        AUTH a b c
        AUTH
        HELLO 4
        HELLO x
        HELLO 2 FOO
        HELLO 2 AUTH default
        HELLO 2 AUTH nobody x
        HELLO 2 SETNAME a\\x20b
        ?HELLO 2 SETNAME tester
        CLIENT GETNAME
        ?HELLO 3
        CLIENT GETNAME
        GET nope
        RESET
        CLIENT GETNAME
        GET nope
        RESET x
    """,
    "unknown": """
        FOO
        foo bar
        FOO bar baz
        FOO XLONG YLONG c
        "" x
        FOO\\r\\n bar\\r\\n
        CONFIG FOO
        CONFIG GET
        CONFIG
        COMMAND FOO
        COMMAND COUNT x
    """,
    "transactions": """
        MULTI
        SET a 1
        INCR a
        GET a
        EXEC
        EXEC
        DISCARD
        MULTI
        MULTI
        SET a 5
        DISCARD
        GET a
        MULTI
        FOO
        SET a 7
        EXEC
        GET a
        MULTI
        SET a
        EXEC
        MULTI
        SET a x
        INCR a
        SET b 1
        EXEC
        GET b
        MULTI
        EXEC
        MULTI
        PING
        ECHO x
        MGET a b nope
        EXPIRE a 100
        ~TTL a
        SET a 1 EX 0
        EXEC
        MULTI x
        EXEC x
        DISCARD x
        MULTI
        SELECT 0
        FLUSHALL
        DBSIZE
        EXEC
        MULTI
        SET q 1
        RESET
        EXEC
        GET q
    """,
    "tracking": """
        CLIENT GETREDIR
        CLIENT TRACKINGINFO
        CLIENT TRACKING
        CLIENT TRACKING MAYBE
        CLIENT TRACKING ON FOO
        CLIENT TRACKING ON REDIRECT 999999
        CLIENT TRACKING ON REDIRECT x
        CLIENT TRACKING ON PREFIX a
        CLIENT TRACKING ON BCAST OPTIN
        CLIENT TRACKING ON OPTIN OPTOUT
        CLIENT TRACKING ON BCAST PREFIX aa PREFIX a
        CLIENT CACHING YES
        CLIENT TRACKING ON BCAST PREFIX foo NOLOOP
        CLIENT TRACKINGINFO
        CLIENT GETREDIR
        CLIENT TRACKING ON
        CLIENT TRACKING ON BCAST PREFIX foobar
        CLIENT TRACKING ON BCAST PREFIX bar
        CLIENT TRACKINGINFO
        CLIENT TRACKING OFF
        CLIENT TRACKINGINFO
        CLIENT TRACKING ON OPTIN
        CLIENT CACHING NO
        CLIENT CACHING MAYBE
        CLIENT TRACKING ON OPTOUT
        CLIENT CACHING YES
        CLIENT TRACKINGINFO
        CLIENT TRACKING OFF
        CLIENT TRACKING ON OPTOUT
        CLIENT CACHING NO
        CLIENT CACHING YES
        CLIENT TRACKING OFF
    """,
    "introspection": """
        ?INFO
        ?INFO server
        ?INFO nosuchsection
        ?TIME
        CONFIG GET save
        CONFIG GET appendonly
        CONFIG GET nosuch*
        CONFIG GET databases2 nosuch
        ?COMMAND
        ?COMMAND COUNT
        ?COMMAND DOCS get
        ?COMMAND INFO get nosuch
        COMMAND INFO nosuch
        COMMAND GETKEYS mset a 1 b 2
        COMMAND GETKEYS get
        COMMAND GETKEYS get a b
        COMMAND GETKEYS nosuch a
        COMMAND GETKEYS ping a
        COMMAND GETKEYS ping
    """,
}

# The standard commands that docs/PROTOCOL.md promises. A test holds that each of them stands in a scenario.
STANDARD = frozenset(
    (
        "HELLO",
        "MSETNX",
        "GETRANGE",
        "SUBSTR",
        "SETRANGE",
        "SUBSCRIBE",
        "UNSUBSCRIBE",
        "FUNCTION",
        "AUTH",
        "PING",
        "ECHO",
        "SELECT",
        "QUIT",
        "RESET",
        "CLIENT",
        "COMMAND",
        "INFO",
        "CONFIG",
        "GET",
        "SET",
        "SETEX",
        "PSETEX",
        "SETNX",
        "GETEX",
        "GETDEL",
        "GETSET",
        "MGET",
        "MSET",
        "DEL",
        "UNLINK",
        "EXISTS",
        "TOUCH",
        "TTL",
        "PTTL",
        "EXPIRE",
        "PEXPIRE",
        "EXPIREAT",
        "PEXPIREAT",
        "EXPIRETIME",
        "PEXPIRETIME",
        "PERSIST",
        "TYPE",
        "OBJECT",
        "STRLEN",
        "INCR",
        "INCRBY",
        "DECR",
        "DECRBY",
        "INCRBYFLOAT",
        "APPEND",
        "SCAN",
        "KEYS",
        "DBSIZE",
        "FLUSHDB",
        "FLUSHALL",
        "MULTI",
        "EXEC",
        "DISCARD",
        "TIME",
    )
)
