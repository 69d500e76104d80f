// Java (11 or newer; `java Client.java` runs it): posts one event to gmfy-sidecar and goes on.
// 503, 500 and no answer are tried again, after Retry-After where it is given, with the same
// Idempotency-Key, so that the event counts once. A 4xx is not: the event is wrong, and its answer
// says how.
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.util.UUID;

public class Client {
    static final String URL =
        System.getenv().getOrDefault("GMFY_SIDECAR_URL", "http://127.0.0.1:7460/") + "v1/events/";
    static final HttpClient client =
        HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

    static boolean send(String event) throws InterruptedException {
        HttpRequest request = HttpRequest.newBuilder(URI.create(URL))
            .timeout(Duration.ofSeconds(2))
            .header("Content-Type", "application/json")
            .header("Idempotency-Key", UUID.randomUUID().toString())
            .POST(HttpRequest.BodyPublishers.ofString(event))
            .build();
        String problem = "";
        for (int attempt = 0; attempt < 3; attempt++) {
            long wait = 1;
            try {
                var answer = client.send(request, BodyHandlers.ofString());
                if (answer.statusCode() < 300) return true;
                problem = answer.statusCode() + " " + answer.body();
                if (answer.statusCode() < 500) break;
                wait = Math.min(answer.headers().firstValueAsLong("Retry-After").orElse(1), 5);
            } catch (IOException error) {
                problem = error.toString();
            }
            Thread.sleep(wait * 1000);
        }
        System.err.println("event not taken: " + problem);
        return false;
    }

    public static void main(String[] arguments) throws InterruptedException {
        System.exit(send("{\"userId\":\"ada\",\"type\":\"register\"}") ? 0 : 1);
    }
}
