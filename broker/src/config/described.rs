//! What operators are told of each setting of a broker. Defaults and limits are not repeated here: they come from the code.

use serve::settings::{Cluster, Form, Http, Key, Log, Node, Runtime, Shutdown, Tls};

const NODE: [Key; 1] = Node::described(
    "What this broker is called in routes and metrics, differently from all others. Handles and transaction ids \
        name the broker by it: a broker may move, and is not renamed while messages wait.",
);

const TOP: [Key; 2] = [
    Key {
        name: "data",
        form: Form::Path,
        why: "Where messages are kept: one directory for each store, locked while a broker runs. It belongs on a disk of \
            its own, and on no network file system.",
    },
    Key {
        name: "nameservers",
        form: Form::Addresses,
        why: "The name servers of the cluster, all of them; names are looked up again at each connection. Without any, \
            this broker alone answers routes.",
    },
];

const GRPC: [Key; 3] = [
    Key {
        name: "grpc.listen",
        form: Form::Address,
        why: "Where clients connect, in clear text or TLS. Port 0 is any free one, which `ports.json` in the data \
            directory tells.",
    },
    Key {
        name: "grpc.advertise",
        form: Form::Address,
        why: "What clients are told to connect to, where they cannot reach `grpc.listen` as it is: behind NAT, a load \
            balancer, or where containers have published ports. See [clusters](clusters.md).",
    },
    Key {
        name: "grpc.connections_max",
        form: Form::Number("connections"),
        why: "Connections of clients at once; one more is closed. Each takes an open file, see \
            [deployment](deployment.md).",
    },
];

const STORAGE: [Key; 14] = [
    Key {
        name: "storage.disk_reserve",
        form: Form::Text,
        why: "Free space below which new messages are refused (FORBIDDEN, `disk_full:`), so that acknowledgements and \
            upkeep still have room: a share of the file system or a size.",
    },
    Key {
        name: "storage.tail_cache",
        form: Form::Size,
        why: "Memory for the bodies of the newest messages. Groups that keep up are served from it, others read the \
            disk.",
    },
    Key {
        name: "storage.read_threads",
        form: Form::Number("threads"),
        why: "Threads that read the disk for groups that are behind, and for look-ups.",
    },
    Key {
        name: "storage.checkpoint_every",
        form: Form::Duration,
        why: "The longest time between two checkpoints while messages come: what came after the newest one is read at a \
            start.",
    },
    Key {
        name: "storage.checkpoint_bytes",
        form: Form::Size,
        why: "The most log between two checkpoints, for the same reason.",
    },
    Key {
        name: "storage.retention",
        form: Form::Duration,
        why: "How long messages are kept, read or not, after they became visible. Topics may say something else \
            themselves. What waits for its time or its transaction stays.",
    },
    Key {
        name: "storage.retention_size",
        form: Form::Size,
        why: "The most that the log may take, at least two segments. Without it, as much as there is; age alone decides.",
    },
    Key {
        name: "storage.retention_size_first",
        form: Form::Switch,
        why: "Whether limits of size, `storage.retention_size` and those of topics, also take messages that are younger \
            than their retention, read or not.",
    },
    Key { name: "storage.dead_letter_retention", form: Form::Duration, why: "How long dead letters are kept." },
    Key {
        name: "storage.retain_every",
        form: Form::Duration,
        why: "How often the store looks for segments that nobody wants any more.",
    },
    Key {
        name: "storage.behind_read_rate",
        form: Form::Size,
        why: "Bytes a second that groups which are behind may read, all together, so that they leave the disk to others. \
            0 is as fast as they can.",
    },
    Key {
        name: "storage.verify_rate",
        form: Form::Text,
        why: "How fast the server reads again what it no longer writes, to find damage while it can be mended. `\"0\"` \
            turns that off.",
    },
    Key {
        name: "storage.log.segment_size",
        form: Form::Size,
        why: "Size of one file of the log. Space becomes free segment by segment. A change takes effect with the next \
            segment.",
    },
    Key {
        name: "storage.log.flush",
        form: Form::Words(&["sync", "write"]),
        why: "When a send is answered. `sync`: when the disk has it. `write`: when the system has it; such an OK does \
            not survive a power cut, and metrics and `carillon_durability_info` say so.",
    },
];

const REST: [Key; 12] = [
    Key {
        name: "timer.delay_max",
        form: Form::Duration,
        why: "How far ahead a message may be scheduled; beyond it is ILLEGAL_DELIVERY_TIME.",
    },
    Key {
        name: "topics.auto_create",
        form: Form::Switch,
        why: "Create an unknown topic with its first message. It is right for development: a typing error makes a topic, \
            too.",
    },
    Key {
        name: "topics.message_size_max",
        form: Form::Size,
        why: "The largest body; a larger one is MESSAGE_BODY_TOO_LARGE. Some clients cannot receive more than the limit \
            of 4 MiB.",
    },
    Key { name: "groups.auto_create", form: Form::Switch, why: "Create an unknown consumer group at its first call." },
    Key {
        name: "groups.invisible_default",
        form: Form::Duration,
        why: "For new groups: how long a message is hidden from others after it was handed out, when the client does not \
            say.",
    },
    Key {
        name: "groups.in_flight_max",
        form: Form::Number("messages"),
        why: "Messages that one group may have handed out of one topic and not settled; then its receives wait. Those \
            renewed twice or more do not count.",
    },
    Key {
        name: "transactions.check_after",
        form: Form::Duration,
        why: "How long after it was prepared the producer of a transaction is asked for its outcome, unless the message \
            says.",
    },
    Key { name: "transactions.check_every", form: Form::Duration, why: "How often it is asked after that." },
    Key {
        name: "transactions.checks_max",
        form: Form::Number("questions"),
        why: "How often it is asked in all. Then the transaction stays prepared: it is neither lost nor decided.",
    },
    Key {
        name: "limits.memory",
        form: Form::Size,
        why: "Bytes held for clients: requests that are being received or worked on, and answers that they have not taken. \
            What does not fit is refused at once (TOO_MANY_REQUESTS), see [load](load.md).",
    },
    Key {
        name: "limits.writer_inbox",
        form: Form::Number("requests"),
        why: "Requests that may wait for the writer of the log; one more is refused at once (TOO_MANY_REQUESTS).",
    },
    Key {
        name: "limits.send_wait",
        form: Form::Duration,
        why: "Sends are refused (TOO_MANY_REQUESTS) while sends keep waiting for longer than this for their turn.",
    },
];

pub(super) fn keys() -> Vec<Key> {
    let parts: [&[Key]; 11] = [
        &TOP,
        &Cluster::DESCRIBED,
        &NODE,
        &GRPC,
        &Http::DESCRIBED,
        &Tls::DESCRIBED,
        &STORAGE,
        &REST,
        &Log::DESCRIBED,
        &Shutdown::DESCRIBED,
        &Runtime::DESCRIBED,
    ];
    parts.concat()
}
