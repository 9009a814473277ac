/** Stands in for the agent that LocalStack loads into DynamoDB Local to patch it, which nothing here needs. */
public class NoopAgent {
  public static void premain(String args, java.lang.instrument.Instrumentation instrumentation) {}
}
