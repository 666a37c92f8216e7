// The Java client does one thing and says what came of it: see kafka_clients_foreign.py.

import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public final class JavaClient {
    private static final Duration TURN = Duration.ofMillis(100);
    private static final HexFormat HEX = HexFormat.of();
    private static final int REFUSED = 3;
    private static final int BIG = 64 << 20;

    private final Properties common = new Properties();
    private final String patience;

    private JavaClient(
            String bootstrap, String user, String password, String mechanism, String ca, String patience) {
        this.patience = patience;
        common.put("bootstrap.servers", bootstrap);
        common.put("security.protocol", (user.isEmpty() ? "" : "SASL_") + (ca.isEmpty() ? "PLAINTEXT" : "SSL"));
        common.put("request.timeout.ms", "10000");
        common.put("default.api.timeout.ms", "10000");
        if (!user.isEmpty()) {
            common.put("sasl.mechanism", mechanism);
            String module = mechanism.equals("PLAIN") ? "plain.PlainLoginModule" : "scram.ScramLoginModule";
            common.put(
                    "sasl.jaas.config",
                    String.format(
                            "org.apache.kafka.common.security.%s required username=\"%s\" password=\"%s\";",
                            module, user, password));
        }
        if (!ca.isEmpty()) {
            common.put("ssl.truststore.type", "PEM");
            common.put("ssl.truststore.location", ca);
        }
    }

    public static void main(String[] args) throws Exception {
        JavaClient client = new JavaClient(args[0], args[1], args[2], args[3], args[4], args[5]);
        String[] given = Arrays.copyOfRange(args, 7, args.length);
        try {
            client.act(args[6], given).forEach(System.out::println);
        } catch (ExecutionException | KafkaException error) {
            Throwable cause = error instanceof ExecutionException ? error.getCause() : error;
            System.out.println("refused " + cause + " < " + cause.getCause());
            System.exit(REFUSED);
        }
    }

    private List<String> act(String verb, String[] given) throws Exception {
        switch (verb) {
            case "produce":
                return produce(given[0], given[1], Path.of(given[2]));
            case "read":
                return read(given[0], given[1], Integer.parseInt(given[2]));
            case "share":
                return share(given[0], given[1]);
            case "woken":
                return woken(given[0]);
            case "create":
                try (Admin admin = Admin.create(common)) {
                    admin.createTopics(List.of(new NewTopic(given[0], Integer.parseInt(given[1]), (short) 1))).all().get();
                }
                return List.of();
            case "remove":
                try (Admin admin = Admin.create(common)) {
                    admin.deleteTopics(List.of(given[0])).all().get();
                }
                return List.of();
            case "topics":
                return topics();
            default:
                throw new IllegalArgumentException(verb);
        }
    }

    private KafkaProducer<byte[], byte[]> producer(String codec) {
        Properties options = new Properties();
        options.putAll(common);
        options.put("compression.type", codec);
        options.put("max.block.ms", patience);
        options.put("max.request.size", BIG);
        options.put("buffer.memory", BIG);
        options.put("linger.ms", 20);
        return new KafkaProducer<>(options, new ByteArraySerializer(), new ByteArraySerializer());
    }

    private KafkaConsumer<byte[], byte[]> consumer(String group, int waitMs) {
        Properties options = new Properties();
        options.putAll(common);
        options.put("group.id", group);
        options.put("auto.offset.reset", "earliest");
        options.put("enable.auto.commit", false);
        options.put("heartbeat.interval.ms", 200);
        options.put("session.timeout.ms", 6000);
        options.put("fetch.max.wait.ms", waitMs);
        return new KafkaConsumer<>(options, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private List<String> produce(String topic, String codec, Path path) throws Exception {
        try (KafkaProducer<byte[], byte[]> producer = producer(codec)) {
            List<Future<RecordMetadata>> waiting = new ArrayList<>();
            for (String line : Files.readAllLines(path)) {
                waiting.add(producer.send(parsed(topic, line)));
            }
            List<String> offsets = new ArrayList<>();
            for (Future<RecordMetadata> one : waiting) {
                offsets.add(Long.toString(one.get().offset()));
            }
            return offsets;
        }
    }

    private List<String> read(String topic, String group, int count) {
        List<String> found = new ArrayList<>();
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(group, 500)) {
            consumer.subscribe(List.of(topic));
            while (found.size() < count) {
                ConsumerRecords<byte[], byte[]> records = consumer.poll(TURN);
                for (ConsumerRecord<byte[], byte[]> record : records) {
                    if (found.size() < count) {
                        found.add(shown(record));
                        OffsetAndMetadata next = new OffsetAndMetadata(record.offset() + 1, "said by Java");
                        consumer.commitSync(Map.of(new TopicPartition(topic, record.partition()), next));
                    }
                }
            }
        }
        return found;
    }

    private List<String> share(String topic, String group) {
        KafkaConsumer<byte[], byte[]> second = consumer(group, 500);
        try (KafkaConsumer<byte[], byte[]> first = consumer(group, 500)) {
            first.subscribe(List.of(topic));
            second.subscribe(List.of(topic));
            while (first.assignment().size() != 2 || second.assignment().size() != 2) {
                first.poll(TURN);
                second.poll(TURN);
            }
            List<String> said = new ArrayList<>(List.of(held(first), held(second)));
            second.close();
            while (first.assignment().size() != 4) {
                first.poll(TURN);
            }
            said.add(held(first));
            return said;
        }
    }

    private static String held(KafkaConsumer<?, ?> consumer) {
        return consumer.assignment().stream().map(p -> Integer.toString(p.partition())).collect(Collectors.joining(","));
    }

    private List<String> woken(String topic) throws Exception {
        try (KafkaProducer<byte[], byte[]> producer = producer("none");
                KafkaConsumer<byte[], byte[]> consumer = consumer("none", 5_000)) {
            producer.send(new ProducerRecord<>(topic, 0, null, "first".getBytes(StandardCharsets.UTF_8))).get();
            TopicPartition place = new TopicPartition(topic, 0);
            consumer.assign(List.of(place));
            consumer.seekToBeginning(List.of(place));
            while (consumer.poll(TURN).isEmpty()) {}
            if (!consumer.poll(TURN.multipliedBy(5)).isEmpty()) {
                throw new IllegalStateException("a record nobody said");
            }
            producer.send(new ProducerRecord<>(topic, 0, null, "second".getBytes(StandardCharsets.UTF_8))).get();
            long begun = System.nanoTime();
            while (consumer.poll(TURN).isEmpty()) {}
            return List.of(Double.toString((System.nanoTime() - begun) / 1e9));
        }
    }

    private List<String> topics() throws Exception {
        try (Admin admin = Admin.create(common)) {
            Collection<String> names = admin.listTopics().names().get();
            Map<String, TopicDescription> found = admin.describeTopics(names).allTopicNames().get();
            return found.values().stream().map(t -> t.name() + " " + t.partitions().size()).collect(Collectors.toList());
        }
    }

    private static ProducerRecord<byte[], byte[]> parsed(String topic, String line) {
        String[] fields = line.split("\\|", -1);
        ProducerRecord<byte[], byte[]> record = new ProducerRecord<>(topic, 0, unhex(fields[0]), unhex(fields[1]));
        for (String pair : fields[2].isEmpty() ? new String[0] : fields[2].split(";")) {
            String[] said = pair.split(":", -1);
            record.headers().add(new String(unhex(said[0]), StandardCharsets.UTF_8), unhex(said[1]));
        }
        return record;
    }

    private static String shown(ConsumerRecord<byte[], byte[]> record) {
        List<String> headers = new ArrayList<>();
        for (Header header : record.headers()) {
            headers.add(hex(header.key().getBytes(StandardCharsets.UTF_8)) + ":" + hex(header.value()));
        }
        return hex(record.key()) + "|" + hex(record.value()) + "|" + String.join(";", headers);
    }

    private static String hex(byte[] bytes) {
        return bytes == null ? "-" : HEX.formatHex(bytes);
    }

    private static byte[] unhex(String text) {
        return text.equals("-") ? null : HEX.parseHex(text);
    }
}
