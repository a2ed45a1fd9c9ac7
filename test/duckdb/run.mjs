// Runs statements of SQL in a DuckDB in memory: those of the first argument, a
// list in JSON. Prints a list of the rows of each, numbers beyond 53 bits as text.
// Where DuckDB is installed is said by DUCKDB, a folder with node_modules.
import {createRequire} from 'node:module';
import {pathToFileURL} from 'node:url';

const from = createRequire(pathToFileURL(process.env.DUCKDB + '/'));
const {DuckDBInstance} = from('@duckdb/node-api');

const instance = await DuckDBInstance.create(':memory:');
const connection = await instance.connect();
const all = [];
for (const statement of JSON.parse(process.argv[2])) {
	const result = await connection.runAndReadAll(statement);
	all.push(result.getRowObjectsJson());
}
console.log(JSON.stringify(all));
